"""The statistics against scipy's, and against simulated data of known truth."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from enginebench_reports.stats import (
    bootstrap_interval,
    log_ratios,
    lower_bound,
    p_above,
    p_below,
    ratio,
    t_interval,
    upper_bound,
)

logs_of_pairs = st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=40).filter(
    lambda logs: np.std(logs) > 1e-6
)
levels = st.floats(1e-5, 0.4)


@given(logs_of_pairs, st.floats(-0.1, 0.1))
def test_p_values_are_those_of_scipy(logs: list[float], limit: float) -> None:
    for ours, alternative in ((p_above, "greater"), (p_below, "less")):
        theirs = oracle.ttest_1samp(logs, limit, alternative=alternative).pvalue
        assert ours(logs, limit) == pytest.approx(theirs, rel=1e-6, abs=1e-12)


@given(logs_of_pairs, st.floats(0.5, 0.999))
def test_intervals_are_those_of_scipy(logs: list[float], confidence: float) -> None:
    theirs = oracle.ttest_1samp(logs, 0).confidence_interval(confidence)
    assert t_interval(logs, confidence) == pytest.approx(tuple(theirs), rel=1e-6, abs=1e-9)


@given(logs_of_pairs, levels)
def test_a_bound_is_where_the_p_value_is_the_level(logs: list[float], level: float) -> None:
    assert p_above(logs, lower_bound(logs, level)) == pytest.approx(level, rel=1e-6)
    assert p_below(logs, upper_bound(logs, level)) == pytest.approx(level, rel=1e-6)


@given(logs_of_pairs, levels)
def test_swapping_the_arms_mirrors_everything(logs: list[float], level: float) -> None:
    swapped = [-log for log in logs]
    assert lower_bound(swapped, level) == pytest.approx(-upper_bound(logs, level))
    assert p_above(swapped, 0.01) == pytest.approx(p_below(logs, -0.01))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9), st.floats(0.5, 2.0))
def test_a_constant_factor_is_found_whatever_the_figures(
    firsts: list[float], factor: float
) -> None:
    logs = log_ratios([(first, first * factor) for first in firsts])
    assert ratio(logs) == pytest.approx(factor)


def test_one_pair_says_nothing() -> None:
    assert p_above([0.5], 0) == 0.5
    assert t_interval([0.5], 0.9) == (-math.inf, math.inf)
    assert bootstrap_interval([0.5], 0.9) is None


def test_figures_without_any_scatter_are_taken_for_exact() -> None:
    assert t_interval([0.02] * 4, 0.99) == (0.02, 0.02)
    assert (p_above([0.02] * 4, 0), p_below([0.02] * 4, 0)) == (0.0, 1.0)
    assert p_above([0.0] * 4, 0) == 0.5
    assert bootstrap_interval([0.02] * 8, 0.9) == (0.02, 0.02)


@pytest.mark.parametrize("skewed", [False, True])
def test_the_bootstrap_agrees_with_scipys(skewed: bool) -> None:
    rng = np.random.default_rng(3)
    logs = rng.exponential(0.02, 20) if skewed else rng.normal(0.01, 0.02, 20)
    ours = bootstrap_interval(list(logs), 0.95)
    theirs = oracle.bootstrap(
        (logs,), np.mean, confidence_level=0.95, method="BCa", n_resamples=10_000, rng=rng
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours == pytest.approx(tuple(theirs), abs=0.04 * width)


def test_the_bootstrap_is_the_same_each_time_and_warns_of_nothing() -> None:
    logs = [0.01, 0.03, -0.02, 0.04, 0.0, 0.02, 0.01]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_interval(logs, 0.95) == bootstrap_interval(logs, 0.95)


@pytest.mark.parametrize("pairs", [4, 12])
def test_the_t_interval_covers_the_truth_as_often_as_it_says(pairs: int) -> None:
    rng, truth = np.random.default_rng(11), math.log(1.03)
    tries = 4000
    covered = 0
    for logs in rng.normal(truth, 0.02, (tries, pairs)):
        low, high = t_interval(list(logs), 0.95)
        covered += low <= truth <= high
    assert oracle.binomtest(covered, tries, 0.95).pvalue > 1e-3
