"""The engine with fewer bits than it was given: how far its scores move, and what it saves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_references import Reference, drain, greedy, logprobs, moved, tokens_of

from enginebench.types import OptionValue
from enginebench_paged.engine import PagedEngine
from enginebench_paged.precision import told

pytestmark = pytest.mark.usefixtures("on_the_cpu")

References = Callable[[str], Reference]
PLAIN: dict[str, OptionValue] = {"dtype": "f32", "kv_memory_gb": 0.01}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_an_fp8_cache_moves_scores_a_little(references: References, architecture: str) -> None:
    assert 0 < moved(references(architecture), PLAIN, kv_cache_dtype="fp8") < 0.15


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


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"quantization": "int8"}, 0.03),
        ({"quantization": "int8", "quantization_zeros": True, "quantization_group": 32}, 0.03),
        ({"quantization": "int4"}, 0.5),
        ({"quantization": "int4", "quantization_zeros": False, "quantization_group": 32}, 0.5),
        ({"quantization": "fp8"}, 0.3),
    ],
    ids=str,
)
def test_quantized_weights_move_scores_as_far_as_their_bits(
    references: References, architecture: str, options: dict[str, OptionValue], most: float
) -> None:
    assert most / 50 < moved(references(architecture), PLAIN, **options) < most


def test_experts_are_quantized_too(references: References) -> None:
    reference = references("qwen3_moe")
    assert 0.0005 < moved(reference, PLAIN, quantization="int8") < 0.05
    int4 = PagedEngine(
        reference.model,
        {**PLAIN, "quantization": "int4", "quantization_group": 32, "deterministic": True},
    )
    assert 4 < (told(int4.precision).weight_bits or 32) < 12
    assert logprobs(int4, reference.prompts[0]).isfinite().all()


@pytest.mark.parametrize(
    ("options", "weights", "least", "most"),
    [
        ({}, "f32", 32, 32),
        ({"quantization": "int8", "quantization_group": 32}, "int8", 8.5, 16),
        ({"quantization": "int4", "quantization_group": 32}, "int4", 4.75, 12),
        ({"quantization": "fp8"}, "fp8", 8, 9),
    ],
    ids=str,
)
def test_it_says_what_it_holds(
    references: References,
    options: dict[str, OptionValue],
    weights: str,
    least: float,
    most: float,
) -> None:
    """Rows of 48 and 80 columns are padded to whole groups, which counts."""
    engine = PagedEngine(references("llama").model, {**PLAIN, **options})
    numerics = told(f"listening\n{engine.precision}\n")
    assert numerics.weights == weights
    assert least <= (numerics.weight_bits or 32) <= most
    assert numerics.compute == ("fp8" if weights == "fp8" else "f32")
    engine.close()


def test_a_deterministic_engine_takes_quantized_weights(references: References) -> None:
    reference = references("llama")
    engine = PagedEngine(reference.model, {**PLAIN, "quantization": "int8", "deterministic": True})
    for index, prompt in enumerate(reference.prompts):
        engine.add(greedy(str(index), prompt))
    together = drain(engine)
    engine.add(greedy("alone", reference.prompts[0]))
    assert tokens_of(drain(engine)["alone"]) == tokens_of(together["0"])
