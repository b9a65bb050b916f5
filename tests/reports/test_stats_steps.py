"""Steps in series of known truth: how often one is seen where none is, and that true ones are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from enginebench_reports.stats_steps import fewest_after, find_steps

Floats = npt.NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Floats]

NOISES: dict[str, Noise] = {
    "normal": lambda rng, count: rng.normal(size=count),
    "heavy tails": lambda rng, count: rng.standard_t(2, size=count),
    "skewed": lambda rng, count: rng.exponential(size=count),
    "mostly equal": lambda rng, count: np.where(rng.random(count) < 0.2, rng.random(count), 0.0),
}


@pytest.mark.parametrize("noise", NOISES)
def test_false_alarms_are_as_rare_as_promised(noise: str) -> None:
    """200 series without a step, at 10%: more alarms than 99.9% of fair tests would give fail."""
    rng = np.random.default_rng(7)
    alarms = sum(
        bool(find_steps(NOISES[noise](rng, 16), 0.1, seed=series)) for series in range(200)
    )
    assert alarms <= binom.ppf(0.999, 200, 0.1)


def test_beside_a_true_step_false_ones_are_as_rare() -> None:
    rng = np.random.default_rng(6)
    alarms = 0
    for series in range(200):
        values = rng.normal(size=24) + np.repeat([0.0, 50.0], 12)
        alarms += len(find_steps(values, 0.1, seed=series)) > 1
    assert alarms <= binom.ppf(0.999, 200, 0.1)


def test_alarms_are_not_rarer_than_they_may_be() -> None:
    """The test uses its level: a step of nothing is found about as often as allowed."""
    rng = np.random.default_rng(8)
    alarms = sum(bool(find_steps(rng.normal(size=16), 0.1, seed=series)) for series in range(200))
    assert alarms >= binom.ppf(0.001, 200, 0.1)


@settings(max_examples=15, deadline=None)
@given(
    before=st.integers(9, 20),
    after=st.integers(9, 20),
    height=st.floats(8, 100) | st.floats(-100, -8),
    seed=st.integers(0, 10_000),
)
def test_a_step_far_above_the_noise_is_found_where_it_is(
    before: int, after: int, height: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(-1, 1, before + after)
    values = noise + np.where(np.arange(before + after) < before, 0, height)
    (step,) = find_steps(values, 0.003)
    assert step.at == before
    assert step.before == pytest.approx(values[:before].mean())
    assert step.after == pytest.approx(values[before:].mean())
    assert step.p_value <= 0.003


@pytest.mark.parametrize(("height", "power"), [(1.5, 0.3), (2.5, 0.85)])
def test_power_grows_with_the_step(height: float, power: float) -> None:
    """Steps in units of the noise, in the middle of 24 commits, at 1%."""
    rng, found = np.random.default_rng(9), 0
    for series in range(60):
        values = rng.normal(size=24) + np.where(np.arange(24) < 12, 0, height)
        found += any(abs(step.at - 12) <= 2 for step in find_steps(values, 0.01, seed=series))
    assert found / 60 >= power


def test_there_and_back_are_two_steps() -> None:
    noise = np.random.default_rng(1).uniform(-1, 1, 36)
    values = noise + np.repeat([0.0, 12.0, 0.0], 12)
    assert [step.at for step in find_steps(values, 0.01)] == [12, 24]


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(st.integers(-50, 50), min_size=0, max_size=14),
    scale=st.sampled_from([0.5, 4.0]),
    shift=st.integers(-1000, 1000),
)
def test_units_do_not_matter(values: list[int], scale: float, shift: int) -> None:
    steps = find_steps(values, 0.05)
    again = find_steps([each * scale + shift for each in values], 0.05)
    assert [(step.at, step.p_value) for step in again] == [
        (step.at, step.p_value) for step in steps
    ]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 9.0], [2.0] * 30])
def test_what_cannot_step_does_not(values: list[float]) -> None:
    assert find_steps(values, 0.05) == []


def test_how_many_figures_a_step_needs_behind_it() -> None:
    assert fewest_after(20, 0.01) == 3
    assert fewest_after(20, 0.05) == 2
    assert fewest_after(5, 0.01) is None
    clean = [0.0] * 17 + [1.0] * 3
    assert [step.at for step in find_steps(clean, 0.01)] == [17]
    assert find_steps([0.0] * 19 + [1.0], 0.01) == []
