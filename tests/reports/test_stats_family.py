"""Holm's correction: worked by hand, its laws, and its error rate on simulated families."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_reports.stats_family import holm

p_lists = st.lists(st.floats(0, 1), max_size=20)
levels = st.floats(1e-3, 0.2)


def test_an_example_worked_by_hand() -> None:
    steps = holm([0.01, 0.04, 0.03, 0.005], 0.05)
    assert [step.is_rejected for step in steps] == [True, False, False, True]
    assert [step.p_adjusted for step in steps] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [step.level for step in steps] == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])


def test_a_single_comparison_needs_no_correction() -> None:
    (step,) = holm([0.03], 0.05)
    assert (step.is_rejected, step.p_adjusted, step.level) == (True, 0.03, 0.05)
    assert holm([], 0.05) == []


@given(p_lists, levels)
def test_rejected_just_when_the_adjusted_p_says_so(p_values: list[float], level: float) -> None:
    for step in holm(p_values, level):
        assert step.is_rejected == (step.p_adjusted <= level)


@given(p_lists, levels)
def test_between_bonferroni_and_no_correction(p_values: list[float], level: float) -> None:
    count = len(p_values)
    for p, step in zip(p_values, holm(p_values, level), strict=True):
        assert p <= step.p_adjusted <= min(1.0, p * count)
        assert level / count <= step.level <= level
        assert step.is_rejected == (p <= step.level) or p == pytest.approx(step.level)


@given(p_lists, levels, st.randoms(use_true_random=False))
def test_order_does_not_matter(p_values: list[float], level: float, rng: object) -> None:
    order = list(range(len(p_values)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    straight = holm(p_values, level)
    turned = holm([p_values[place] for place in order], level)
    assert [straight[place].p_adjusted for place in order] == [step.p_adjusted for step in turned]


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_any_false_alarm_in_the_family_is_as_rare_as_the_level(shared: float) -> None:
    """Ten true nulls, independent or strongly correlated."""
    from scipy.special import ndtr

    rng, tries, level = np.random.default_rng(2), 4000, 0.05
    common = rng.normal(size=(tries, 1)) * np.sqrt(shared)
    z = common + rng.normal(size=(tries, 10)) * np.sqrt(1 - shared)
    alarms = sum(any(step.is_rejected for step in holm(list(p), level)) for p in ndtr(-z))
    assert alarms / tries <= level + 3 * np.sqrt(level / tries)
