"""A context that is shifted: what is forgotten, what stays exact, and what answers come of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from quant_models import TINY, random_model
from test_quant_engine import CountingRunner, Guesser, answers, finish, request

from enginebench.errors import UsageError
from enginebench_models import RopeScaling
from enginebench_openai.protocol import Feature
from enginebench_quant.cache_rows import turned
from enginebench_quant.engine import QuantEngine
from enginebench_quant.kernels.reference import rotate_halves
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel
from enginebench_quant.options import OPTIONS, QuantOptions
from enginebench_quant.slot import Slot

Floats = NDArray[np.float32]
TOKENS = np.random.default_rng(3).integers(0, TINY.vocab_size, 40).tolist()


def test_keys_turn_as_rotary_positions_do() -> None:
    keys = np.random.default_rng(0).standard_normal((7, 2, 16), np.float32)
    frequencies = 1e4 ** -(np.arange(8) / 8)
    positions = np.arange(7)
    before = rotate_halves(keys, positions + 5, frequencies).astype(np.float16).view(np.uint8)
    found = turned(before, 16, -5 * frequencies).view(np.float16)
    assert np.abs(found - rotate_halves(keys, positions, frequencies)).max() < 4e-3


def one_layer(kernels: Kernels, kv_type: str) -> QuantModel:
    scaling = RopeScaling("llama3", factor=8, original_context_length=64)
    config = replace(TINY, n_layers=1, n_heads=2, head_dim=64, rope_scaling=scaling)
    model = random_model(config, "F16")
    return QuantModel(model, kernels, context=64, threads=1, kv_type=kv_type)


def last_logits(runner: QuantModel, tokens: list[int]) -> Floats:
    runner.forward(tokens[:-1], 0, want_logits=False)
    logits = runner.forward(tokens[-1:], len(tokens) - 1)
    assert logits is not None
    return logits.copy()


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_with_one_layer_the_rest_is_as_if_the_forgotten_had_never_been(
    best_kernels: Kernels, kv_type: str
) -> None:
    """Keys and values of the first layer know of no other token: only rounding is left.

    Turned keys are rounded a second time, which must cost about what the first time did.
    """
    remembered = [*TOKENS[:4], *TOKENS[21:]]
    with closing(one_layer(best_kernels, "f16")) as runner:
        whole = last_logits(runner, remembered)
    with closing(one_layer(best_kernels, kv_type)) as runner:
        expected = last_logits(runner, remembered)
        before = last_logits(runner, TOKENS)
        runner.shift(4, 21, 39)
        found = runner.forward(TOKENS[39:], len(remembered) - 1)
        assert found is not None
        error, rounding = np.linalg.norm(found - expected), np.linalg.norm(expected - whole)
    assert error < max(2 * rounding, 1e-3 * np.linalg.norm(expected))
    assert error < np.linalg.norm(before - expected) / 2


def test_a_full_context_forgets_half_of_what_is_not_kept() -> None:
    slot = Slot(20, prompt_cache=True, keep_tokens=4)
    slot.add(request("a", range(1, 20), max_tokens=100))
    sequence = slot.begin()
    slot.cached(sequence.request.prompt)
    sequence.computed = 19
    assert slot.make_room(sequence) is None
    slot.cached([20])
    sequence.computed = 20
    assert slot.make_room(sequence) == (4, 12)
    assert slot.in_cache == [1, 2, 3, 4, *range(13, 21)]
    assert sequence.position == 12


@given(
    length=st.integers(1, 30),
    max_tokens=st.integers(1, 200),
    keep=st.integers(0, 16),
    wrong=st.lists(st.booleans(), min_size=1, max_size=9),
)
def test_answers_are_as_long_as_asked_with_and_without_guesses(
    length: int, max_tokens: int, keep: int, wrong: list[bool]
) -> None:
    prompt = range(length)
    expected = [(length + index) % 50 for index in range(max_tokens)]
    for drafter in (None, Guesser(wrong)):
        runner = CountingRunner()
        engine = QuantEngine(runner, context=32, keep_tokens=keep, drafter=drafter)
        engine.add(request("a", prompt, max_tokens))
        outputs = finish(engine)
        assert answers(outputs) == {"a": expected}
        assert outputs[-1].finish_reason == "length"
        assert len(runner.cache) <= 32
        said = [*prompt, *expected]
        assert runner.cache[: min(keep, len(runner.cache))] == said[: min(keep, len(runner.cache))]


def test_only_what_knows_of_nothing_forgotten_serves_the_next_prompt() -> None:
    runner = CountingRunner()
    engine = QuantEngine(runner, context=32, keep_tokens=4)
    engine.add(request("a", range(10), 60))
    finish(engine)
    engine.add(request("b", runner.cache[:20], 1))
    assert finish(engine)[-1].cached_prompt_tokens == 4
    engine.add(request("c", runner.cache[:20], 1))
    assert finish(engine)[-1].cached_prompt_tokens == 19


def test_without_it_an_answer_must_fit() -> None:
    fixed = QuantEngine(CountingRunner(), context=32)
    shifting = QuantEngine(CountingRunner(), context=32, keep_tokens=4)
    assert Feature.CONTEXT_SHIFT not in fixed.features
    assert Feature.CONTEXT_SHIFT in shifting.features
    with pytest.raises(ValueError, match="30 tokens and 3 more do not fit a context of 32"):
        fixed.add(request("a", range(30), 3))
    with pytest.raises(ValueError, match="32 tokens and 1 more do not fit a context of 32"):
        shifting.add(request("a", range(32), 3))


def test_the_options() -> None:
    assert not QuantOptions.resolve({}, TINY).context_shift
    chosen = QuantOptions.resolve({"context_shift": True, "context": 64}, TINY)
    assert chosen.context_shift and chosen.keep_tokens == 4
    with pytest.raises(UsageError, match=r"keep_tokens must be 32 at most, half .* 64; got 33"):
        QuantOptions.resolve({"context_shift": True, "context": 64, "keep_tokens": 33}, TINY)
    with pytest.raises(UsageError, match="keep_tokens must be 0 or more; got -1"):
        QuantOptions.resolve({"context_shift": True, "keep_tokens": -1}, TINY)
    with pytest.raises(UsageError, match="keep_tokens is for context_shift=true"):
        QuantOptions.resolve({"keep_tokens": 8}, TINY)
    defaults = {option.name: option.default for option in OPTIONS}
    assert QuantOptions.resolve(defaults, TINY) == QuantOptions.resolve({}, TINY)
