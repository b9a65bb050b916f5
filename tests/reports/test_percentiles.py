from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_reports.percentiles import (
    bounded_from,
    percentiles,
    printed_from,
    weighted_percentiles,
)

Pairs = list[tuple[float, int]]
pairs = st.lists(
    st.tuples(st.floats(0, 1e3, allow_subnormal=False), st.integers(1, 5)), min_size=1, max_size=60
)


def by_hand(values: Sequence[float], percent: int) -> float:
    """Linear interpolation between order statistics, spelt out."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@pytest.mark.parametrize(("percent", "needed"), [(50, 2), (90, 10), (99, 100)])
def test_a_percentile_is_printed_when_one_sample_lies_beyond_it(percent: int, needed: int) -> None:
    assert printed_from(percent) == needed
    assert percentiles(np.arange(needed, dtype=float), [percent]) != [None]
    assert percentiles(np.arange(needed - 1, dtype=float), [percent]) == [None]


@pytest.mark.parametrize(("percent", "needed"), [(50, 11), (90, 64), (99, 662)])
def test_a_bound_needs_two_samples_beyond_with_99_percent_confidence(
    percent: int, needed: int
) -> None:
    assert bounded_from(percent) == needed
    beyond = 1 - percent / 100

    def at_most_one(n: int) -> float:
        return sum(math.comb(n, k) * beyond**k * (1 - beyond) ** (n - k) for k in (0, 1))

    assert at_most_one(needed) <= 0.01 < at_most_one(needed - 1)


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=100, max_size=200))
def test_percentiles_interpolate_linearly(values: list[float]) -> None:
    found = percentiles(np.array(values))
    assert found == pytest.approx([by_hand(values, percent) for percent in (50, 90, 99)])


@given(pairs)
def test_a_weight_is_so_many_samples(found: Pairs) -> None:
    values = np.array([value for value, _ in found])
    weights = np.array([weight for _, weight in found], np.int64)
    written_out = [value for value, weight in found for _ in range(weight)]
    assert weighted_percentiles(values, weights, samples=1000) == pytest.approx(
        [by_hand(written_out, percent) for percent in (50, 90, 99)]
    )


def test_support_of_weighted_percentiles_is_given_not_counted() -> None:
    values, weights = np.ones(5000), np.ones(5000, np.int64)
    assert weighted_percentiles(values, weights, samples=40) == [1, 1, None]


def test_no_samples_no_percentiles() -> None:
    assert percentiles(np.empty(0)) == [None, None, None]
