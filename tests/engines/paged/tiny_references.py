"""Tiny random models of each architecture, and what `transformers` says after some prompts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_relatives import RELATIVES, relative_config, save_random

from enginebench.types import OptionValue
from enginebench_models import Model, open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams, TokenOutput
from enginebench_paged.engine import PagedEngine

ARCHITECTURES = ("llama", "llama3", "mistral", "qwen2", "qwen3", *RELATIVES)
OUTPUT_TOKENS = 24


@dataclass(frozen=True)
class Reference:
    """A model folder, prompts (many of them share beginnings) and what comes after them."""

    model: Model
    prompts: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


def _hf_config(architecture: str) -> Any:
    import transformers

    plain: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    if architecture in RELATIVES:
        return relative_config(architecture)
    if architecture == "llama":
        return transformers.LlamaConfig(**{**plain, "tie_word_embeddings": True})
    if architecture == "llama3":
        rope = {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
        return transformers.LlamaConfig(**plain, rope_parameters=rope)
    if architecture == "mistral":
        return transformers.MistralConfig(**plain, sliding_window=9, head_dim=8)
    if architecture == "qwen2":
        return transformers.Qwen2Config(**plain)
    return transformers.Qwen3Config(**plain, head_dim=16)


def _prompts() -> tuple[tuple[int, ...], ...]:
    draw = random.Random(7)
    shared = tuple(draw.randrange(3, 500) for _ in range(32))
    tails = [tuple(draw.randrange(3, 500) for _ in range(length)) for length in (1, 5, 19, 40)]
    return (shared, shared[:16], *(shared + tail for tail in tails), tails[2], tails[0], shared)


def make_reference(architecture: str, folder: Path, tokenizer_from: Path) -> Reference:
    torch.set_num_threads(1)
    model = save_random(_hf_config(architecture), folder, tokenizer_from)
    outputs = tuple(continue_greedily(model, prompt, OUTPUT_TOKENS) for prompt in _prompts())
    return Reference(open_model(str(folder)), _prompts(), outputs)


def continue_greedily(model: Any, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Greedy tokens of a transformers model, computed without its cache: one whole pass each."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            tokens.append(int(logits.argmax()))
    return tuple(tokens[len(prompt) :])


def greedy(name: str, prompt: Iterable[int], max_tokens: int = OUTPUT_TOKENS) -> GenerationRequest:
    """A request for the most probable tokens."""
    return GenerationRequest(name, tuple(prompt), max_tokens, SamplingParams(temperature=0.0))


def drain(
    engine: PagedEngine, steps: int = 10_000, into: dict[str, list[TokenOutput]] | None = None
) -> dict[str, list[TokenOutput]]:
    """Step until nothing is left, or for `steps`; all outputs by request."""
    outputs = {} if into is None else into
    for _ in range(steps):
        if not engine.has_work():
            break
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    assert steps < 10_000 or not engine.has_work(), "the engine does not come to an end"
    return outputs


def tokens_of(outputs: Iterable[TokenOutput]) -> tuple[int, ...]:
    """The tokens of one request's outputs."""
    return tuple(token for output in outputs for token in output.token_ids)


def logprobs(engine: PagedEngine, tokens: tuple[int, ...]) -> torch.Tensor:
    """Of each token after the first, and of the one drawn at the end."""
    sampling = SamplingParams(temperature=0.0)
    engine.add(GenerationRequest("it", tokens, 1, sampling, logprobs=0, prompt_logprobs=0))
    outputs = drain(engine)["it"]
    found = [one.logprob for output in outputs for one in output.prompt_logprobs]
    return torch.tensor(found + [one.logprob for output in outputs for one in output.logprobs])


def moved(reference: Reference, plain: dict[str, OptionValue], **options: OptionValue) -> float:
    """How far logprobs move in the mean, as a share of how far they lie apart themselves."""
    tokens = reference.prompts[-1] + reference.outputs[-1]
    exact, changed = (
        logprobs(PagedEngine(reference.model, {**plain, **given}), tokens)
        for given in ({}, options)
    )
    assert len(exact) == len(tokens)
    return float((changed - exact).abs().mean() / exact.std())


class Knowing:
    """A drafter that knows what comes, but is wrong about every fourth token of a text."""

    def __init__(self, most: int, texts: list[tuple[int, ...]]) -> None:
        self._most, self._texts, self._seen = most, texts, ()

    def see(self, tokens: list[int]) -> None:
        self._seen += tuple(tokens)

    def propose(self, count: int) -> tuple[int, ...]:
        said = len(self._seen)
        text = next(text for text in self._texts if text[:said] == self._seen)
        guesses = text[said : said + min(count, self._most)]
        return tuple(3 if (said + place) % 4 == 0 else token for place, token in enumerate(guesses))


@contextmanager
def knowing(texts: list[tuple[int, ...]]) -> Iterator[None]:
    """Engines guess these texts, and not what n-grams say: tiny models seldom repeat themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("enginebench_paged.engine.NgramDrafter", lambda most: Knowing(most, texts))
        yield
