from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_reports.percentiles import bounded_from, percentiles, printed_from


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


def test_support_is_judged_by_what_the_values_are_worth() -> None:
    assert percentiles(np.ones(5000), samples=40) == [1, 1, None]


def test_no_samples_no_percentiles() -> None:
    assert percentiles(np.empty(0)) == [None, None, None]
