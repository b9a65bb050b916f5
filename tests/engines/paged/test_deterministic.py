"""`deterministic`: the same bits of tokens and logprobs however a request was computed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_references import Reference, drain

from enginebench.types import OptionValue
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged import fixed_cpu_step
from enginebench_paged.cache import block_bytes
from enginebench_paged.engine import PagedEngine

References = Callable[[str], Reference]
Answer = list[tuple[int, float, Any]]
OUTPUT = 12
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def prompts(count: int = 5) -> list[tuple[int, ...]]:
    """Of many lengths, some the beginnings of others."""
    draw = random.Random(3)
    shared = tuple(draw.randrange(3, 500) for _ in range(48))
    return [
        shared[: draw.randrange(1, 48)]
        + tuple(draw.randrange(3, 500) for _ in range(draw.randrange(1, 40)))
        for _ in range(count)
    ]


def build(reference: Reference, **options: OptionValue) -> PagedEngine:
    plain: dict[str, OptionValue] = {"dtype": "f32", "max_batch": 8, "deterministic": True}
    return PagedEngine(reference.model, {**plain, **options})


def answers(engine: PagedEngine, asked: list[tuple[int, ...]]) -> list[Answer]:
    """Of all at once: tokens, their logprobs and those of their rivals."""
    for index, prompt in enumerate(asked):
        sampling = SamplingParams(temperature=0.0)
        engine.add(GenerationRequest(str(index), prompt, OUTPUT, sampling, logprobs=2))
    outputs = drain(engine)
    return [
        [
            (score.token_id, score.logprob, score.top)
            for output in outputs[str(index)]
            for score in output.logprobs
        ]
        for index in range(len(asked))
    ]


def alone(reference: Reference, **options: OptionValue) -> list[Answer]:
    """Each prompt by itself, on an engine that never had company, whole."""
    engine = build(reference, max_batch=1, step_tokens=128, prefix_cache=False, **options)
    return [answers(engine, [prompt])[0] for prompt in prompts()]


ALONE: dict[str, list[Answer]] = {}


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2moe"])
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    step_tokens=st.integers(8, 40),
    block_size=st.sampled_from([16, 32]),
    chunked_prefill=st.booleans(),
    prefix_cache=st.booleans(),
    schedule_ahead=st.booleans(),
    tight=st.booleans(),
    order=st.permutations(range(5)),
)
@example(  # preempted, from the cache, in chunks
    step_tokens=11, block_size=16, chunked_prefill=True, prefix_cache=True, schedule_ahead=True,
    tight=True, order=[3, 1, 4, 0, 2],
)  # fmt: skip
def test_no_way_through_shows_in_a_bit(
    references: References,
    architecture: str,
    tight: bool,
    order: list[int],
    **options: OptionValue,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_cpu_step, "SEGMENT", 32)  # contexts of several segments
        reference = references(architecture)
        if architecture not in ALONE:
            ALONE[architecture] = alone(reference)
        if tight:  # room for the longest request and little more: some are computed again
            size = int(options["block_size"])
            each = block_bytes(build(reference, **options).config, reference.model.config)
            blocks = -(-(max(map(len, prompts())) + OUTPUT) // size) + 1
            options["kv_memory_gb"] = (blocks + 0.5) * each / 1e9
        engine = build(reference, **options)
        for _ in range(2):  # the second time, from the cache
            found = answers(engine, [prompts()[index] for index in order])
            assert found == [ALONE[architecture][index] for index in order]
        stats = engine.stats()
        assert stats.kv_blocks_used == 0
        if options["prefix_cache"] and not tight:
            assert stats.prefix_cache_hit_tokens_total
        if order == [3, 1, 4, 0, 2]:
            assert stats.preemptions_total


@pytest.mark.usefixtures("on_the_cpu")
def test_an_fp8_cache_shows_as_little(references: References) -> None:
    reference, small = references("llama"), {"kv_cache_dtype": "fp8"}
    assert answers(build(reference, **small), prompts()) == alone(reference, **small)


@pytest.mark.usefixtures("on_the_cpu")
def test_without_it_company_shows(references: References) -> None:
    """Were the products the same anyway, the test above could not fail."""
    reference = references("llama")
    engine = build(reference, deterministic=False)
    assert answers(engine, prompts()) != alone(reference, deterministic=False)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen2moe"])
def test_it_computes_what_the_usual_engine_computes(
    references: References, architecture: str
) -> None:
    reference = references(architecture)
    pairs = zip(alone(reference), alone(reference, deterministic=False), strict=True)
    for fixed, usual in pairs:
        assert [token for token, _, _ in fixed] == [token for token, _, _ in usual]
        values = [[value for _, value, _ in answer] for answer in (fixed, usual)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2moe"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("cuda_graphs", [pytest.param(on, marks=ON_GPU) for on in (True, False)])
def test_no_way_through_shows_in_a_bit_on_a_gpu(
    references: References, architecture: str, dtype: str, cuda_graphs: bool
) -> None:
    reference = references(architecture)
    more: dict[str, OptionValue] = {"dtype": dtype, "kv_memory_gb": 0.05}
    expected = alone(reference, **more, cuda_graphs=cuda_graphs)
    for options in (
        {"max_batch": 64, "step_tokens": 256},
        {"max_batch": 5, "step_tokens": 24, "split_kv": False},
        {"max_batch": 3, "step_tokens": 40, "prefix_cache": False, "schedule_ahead": False},
        {"max_batch": 8, "chunked_prefill": False, "early_launch": False},
    ):
        engine = build(reference, **more, cuda_graphs=cuda_graphs, **options)
        for _ in range(2):
            assert answers(engine, prompts() * 3) == expected * 3
        engine.close()
