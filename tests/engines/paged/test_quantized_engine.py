"""The engine with fewer bits than it was given: how far its scores move, and what it saves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_references import Reference, drain, greedy, tokens_of

from enginebench.types import OptionValue
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.engine import PagedEngine
from enginebench_paged.precision import told

pytestmark = pytest.mark.usefixtures("on_the_cpu")

References = Callable[[str], Reference]
PLAIN: dict[str, OptionValue] = {"dtype": "f32", "kv_memory_gb": 0.01}


def logprobs(engine: PagedEngine, tokens: tuple[int, ...]) -> torch.Tensor:
    """Of each token after the first, and of the one drawn at the end."""
    sampling = SamplingParams(temperature=0.0)
    engine.add(GenerationRequest("it", tokens, 1, sampling, logprobs=0, prompt_logprobs=0))
    outputs = drain(engine)["it"]
    found = [one.logprob for output in outputs for one in output.prompt_logprobs]
    return torch.tensor(found + [one.logprob for output in outputs for one in output.logprobs])


def moved(reference: Reference, **options: OptionValue) -> float:
    """How far logprobs move in the mean, as a share of how far they lie apart themselves."""
    tokens = reference.prompts[-1] + reference.outputs[-1]
    plain, changed = (
        logprobs(PagedEngine(reference.model, {**PLAIN, **given}), tokens)
        for given in ({}, options)
    )
    assert len(plain) == len(tokens)
    return float((changed - plain).abs().mean() / plain.std())


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_an_fp8_cache_moves_scores_a_little(references: References, architecture: str) -> None:
    assert 0 < moved(references(architecture), kv_cache_dtype="fp8") < 0.15


def test_an_fp8_cache_has_more_blocks_and_serves_all_prompts(references: References) -> None:
    reference = references("llama")
    small = {**PLAIN, "kv_memory_gb": 0.0002}
    plain = PagedEngine(reference.model, small)
    engine = PagedEngine(reference.model, {**small, "kv_cache_dtype": "fp8"})
    assert engine.stats().kv_blocks_total >= 4 * plain.stats().kv_blocks_total  # f32 to 8 bits
    assert told(engine.precision).kv_cache == "fp8"
    for index, prompt in enumerate(reference.prompts):
        engine.add(greedy(str(index), prompt))
    outputs = drain(engine)
    together = [tokens_of(outputs[str(index)]) for index in range(len(reference.prompts))]
    for prompt, tokens in zip(reference.prompts, together, strict=True):
        engine.add(greedy("again", prompt))  # out of the prefix cache, and alone
        assert tokens_of(drain(engine)["again"]) == tokens
