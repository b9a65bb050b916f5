"""The whole engine on a GPU: its greedy tokens are those of `transformers` on a CPU, in float32.

In bfloat16 roundings decide between tokens that are nearly as probable. There, each token is held
against the float32 logits after the same tokens: it may lie below the best by no more than what
bfloat16 changes in the logits of `transformers` itself, for either of the two.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hf_relatives import RELATIVES
from tiny_references import Reference, drain, greedy, knowing, moved, tokens_of

from enginebench.types import OptionValue
from enginebench_paged.engine import PagedEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

References = Callable[[str], Reference]
COPIES = 8


def build(reference: Reference, **options: OptionValue) -> PagedEngine:
    plain = {"dtype": "f32", "max_batch": 64, "step_tokens": 256, "kv_memory_gb": 0.05}
    return PagedEngine(reference.model, {**plain, **options})


def answers(engine: PagedEngine, reference: Reference, copies: int) -> list[tuple[int, ...]]:
    """Of all prompts at once, each asked for so many times."""
    prompts = [prompt for _ in range(copies) for prompt in reference.prompts]
    for index, prompt in enumerate(prompts):
        engine.add(greedy(str(index), prompt))
    outputs = drain(engine)
    return [tokens_of(outputs[str(index)]) for index in range(len(prompts))]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", *RELATIVES])
@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "eager"])
def test_tokens_in_float32(references: References, architecture: str, cuda_graphs: bool) -> None:
    reference = references(architecture)
    engine = build(reference, cuda_graphs=cuda_graphs)
    assert answers(engine, reference, COPIES) == list(reference.outputs) * COPIES
    engine.close()


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "eager"])
def test_guesses_change_no_token(
    references: References, architecture: str, cuda_graphs: bool
) -> None:
    reference = references(architecture)
    engine = build(reference, speculative="ngram", cuda_graphs=cuda_graphs)
    pairs = zip(reference.prompts, reference.outputs, strict=True)
    with knowing([prompt + output for prompt, output in pairs]):
        for copies in (1, COPIES):
            assert answers(engine, reference, copies) == list(reference.outputs) * copies
    assert engine.stats().accepted_draft_tokens_total
    engine.close()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_tokens_in_bfloat16_but_for_near_ties(
    references: References, architecture: str, logits_of: Callable[..., torch.Tensor]
) -> None:
    reference = references(architecture)
    engine = build(reference, dtype="bf16")
    alone = []
    for index, prompt in enumerate(reference.prompts):
        engine.add(greedy(f"alone {index}", prompt))
        alone.append(tokens_of(drain(engine)[f"alone {index}"]))
    together = answers(engine, reference, COPIES)
    for index, tokens in enumerate(alone + together):
        prompt = reference.prompts[index % len(reference.prompts)]
        exact, rounded = (
            logits_of(architecture, prompt + tokens, dtype)[len(prompt) - 1 : -1]
            for dtype in (torch.float32, torch.bfloat16)
        )
        below = exact.max(dim=1).values - exact.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        near_tie = 2 * (rounded.float() - exact).abs().max(dim=1).values
        assert bool((below <= near_tie).all()), (index, below, near_tie)
    engine.close()


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"kv_cache_dtype": "fp8"}, 0.15),
        ({"kv_cache_dtype": "fp8", "deterministic": True}, 0.15),
        ({"quantization": "int8"}, 0.03),
        ({"quantization": "int8", "deterministic": True}, 0.03),
        ({"quantization": "int4"}, 0.5),
        ({"quantization": "fp8"}, 0.3),
        ({"quantization": "fp8", "dtype": "bf16", "kv_cache_dtype": "fp8"}, 0.4),
    ],
    ids=str,
)
def test_fewer_bits_move_scores_as_on_a_cpu(
    references: References, options: dict[str, OptionValue], most: float
) -> None:
    plain: dict[str, OptionValue] = {"dtype": "f32", "max_batch": 64, "kv_memory_gb": 0.05}
    assert most / 50 < moved(references("llama"), plain, **options) < most


def test_fewer_bits_in_graphs_say_what_they_say_outside(references: References) -> None:
    reference = references("qwen2")
    bits: dict[str, OptionValue] = {"quantization": "int4", "kv_cache_dtype": "fp8"}
    found = []
    for cuda_graphs in (True, False):
        engine = build(reference, cuda_graphs=cuda_graphs, deterministic=True, **bits)
        found.append(answers(engine, reference, 2))
        engine.close()
    assert found[0] == found[1]
