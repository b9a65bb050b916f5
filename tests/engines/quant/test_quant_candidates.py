"""Each filter against its definition, written as plainly as its source has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enginebench_quant.candidates import (
    Candidates,
    heat,
    min_p,
    top_k,
    top_p,
    typical_p,
    warm,
    xtc,
)

# distinct, and far enough apart that float32 and float64 order and sum them alike
LOGITS = st.lists(st.integers(-60, 60), min_size=1, max_size=30, unique=True).map(
    lambda values: np.array(values, np.float32) / 7
)
SHARES = st.floats(0.01, 0.99)


def probabilities(logits: np.ndarray) -> list[float]:
    weights = [math.exp(float(value)) for value in logits]
    return [weight / sum(weights) for weight in weights]


def entropy(shares: list[float]) -> float:
    return -sum(share * math.log(share) for share in shares)


def cut(order: list[int], shares: list[float], limit: float) -> set[int]:
    """Token by token until the limit is reached."""
    kept, reached = set(), 0.0
    for token in order:
        kept.add(token)
        reached += shares[token]
        if reached >= limit:
            break
    return kept


def is_close_call(order: list[int], shares: list[float], limit: float) -> bool:
    """Whether float32 may see it otherwise."""
    return bool(np.any(np.abs(np.cumsum([shares[t] for t in order]) - limit) < 1e-5))


def kept(candidates: Candidates) -> set[int]:
    assert (np.diff(candidates.tokens) > 0).all()
    return set(candidates.tokens.tolist())


@settings(max_examples=60)
@given(LOGITS, st.integers(1, 40))
def test_top_k(logits: np.ndarray, count: int) -> None:
    expected = sorted(range(logits.size), key=lambda token: -logits[token])[:count]
    assert kept(top_k(Candidates.of(logits), count)) == set(expected)


@settings(max_examples=60)
@given(LOGITS, SHARES)
def test_top_p(logits: np.ndarray, share: float) -> None:
    shares = probabilities(logits)
    order = sorted(range(logits.size), key=lambda token: -shares[token])
    if not is_close_call(order, shares, share):
        assert kept(top_p(Candidates.of(logits), share)) == cut(order, shares, share)


@settings(max_examples=60)
@given(LOGITS, SHARES)
def test_min_p(logits: np.ndarray, share: float) -> None:
    shares = probabilities(logits)
    bound = share * max(shares)
    if all(abs(p - bound) > 1e-6 for p in shares):
        expected = {token for token, p in enumerate(shares) if p >= bound}
        assert kept(min_p(Candidates.of(logits), share)) == expected


@settings(max_examples=60)
@given(LOGITS, SHARES)
def test_typical_p(logits: np.ndarray, share: float) -> None:
    shares = probabilities(logits)
    distances = [abs(-math.log(p) - entropy(shares)) for p in shares]
    order = sorted(range(logits.size), key=lambda token: distances[token])
    gaps = np.diff(sorted(distances))
    if not is_close_call(order, shares, share) and (gaps.size == 0 or gaps.min() > 1e-5):
        assert kept(typical_p(Candidates.of(logits), share)) == cut(order, shares, share)


@settings(max_examples=60)
@given(LOGITS, SHARES)
def test_xtc(logits: np.ndarray, threshold: float) -> None:
    shares = probabilities(logits)
    if any(abs(p - threshold) < 1e-6 for p in shares):
        return
    above = [token for token, p in enumerate(shares) if p >= threshold]
    dropped = set(above) - {min(above, key=lambda token: shares[token], default=-1)}
    assert kept(xtc(Candidates.of(logits), threshold)) == set(range(logits.size)) - dropped


@settings(max_examples=60)
@given(LOGITS, st.floats(0.1, 2), st.floats(0.05, 2), st.floats(0.5, 2))
@example(np.array([4.571429, -8.571428], np.float32), 1.0, 1.0, 1.0)  # nearly sure
def test_dynamic_temperature(
    logits: np.ndarray, middle: float, spread: float, exponent: float
) -> None:
    if logits.size < 2:
        return
    low, high = max(0.0, middle - spread), middle + spread
    share = entropy(probabilities(logits)) / math.log(logits.size)
    expected = low + (high - low) * share**exponent
    found = warm(Candidates.of(logits), middle, spread, exponent).logits
    if found.size == logits.size:
        assert found == pytest.approx(logits / expected, rel=1e-3, abs=1e-4)
    else:
        assert expected < 1e-30


def test_dynamic_temperature_of_a_sure_model_is_greedy() -> None:
    sure = Candidates.of(np.array([0.0, 2000.0, 0.0], np.float32))
    assert kept(warm(sure, 1.0, 1.0, 1.0)) == {1}
    alone = Candidates.of(np.array([3.0], np.float32))
    assert warm(alone, 1.0, 1.0, 1.0) is alone


def test_a_filter_sees_what_the_one_before_left() -> None:
    some = top_k(Candidates.of(np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))), 2)
    assert some.tokens.tolist() == [1, 3]
    assert some.probabilities() == pytest.approx([4 / 7, 3 / 7])
    assert top_p(some, 0.5).tokens.tolist() == [1]
    assert heat(some, 2.0).tokens.tolist() == [1, 3]
