"""Repeated looks keep their level; a single look is the plain test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_reports.stats import lower_bound, p_above, upper_bound
from enginebench_reports.stats_sequential import Looks

SIZES = (4, 6, 10, 14, 20, 32, 48)
logs_of_pairs = st.lists(st.floats(-0.2, 0.2), min_size=48, max_size=48).filter(
    lambda logs: np.std(logs[:4]) > 1e-6
)


@given(logs_of_pairs, st.floats(1e-4, 0.2))
def test_one_look_is_the_plain_test(logs: list[float], level: float) -> None:
    once = Looks.once(logs)
    assert once.p_above(0.01) == p_above(logs, 0.01)
    assert once.lower_bound(level) == lower_bound(logs, level)
    assert once.upper_bound(level) == upper_bound(logs, level)


@given(logs_of_pairs, st.floats(1e-4, 0.2), st.integers(1, 6))
def test_what_was_reached_once_stays(logs: list[float], level: float, count: int) -> None:
    earlier, later = (Looks(tuple(logs), SIZES[:upto], 8) for upto in (count, count + 1))
    assert later.p_above(0) <= earlier.p_above(0)
    assert later.lower_bound(level) >= earlier.lower_bound(level)
    assert later.upper_bound(level) <= earlier.upper_bound(level)


@given(logs_of_pairs, st.floats(1e-4, 0.2))
def test_bound_and_p_value_agree(logs: list[float], level: float) -> None:
    looks = Looks(tuple(logs), SIZES, 8)
    at = looks.lower_bound(level)
    assert looks.p_above(at - 1e-9) <= level + 1e-6
    assert looks.p_above(at + 1e-9) >= level - 1e-6


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "outliers"])
def test_stopping_at_the_first_significant_look_keeps_the_level(noise: str) -> None:
    """At 5% in all, plain tests at each look would err in about 15%."""
    rng, level, tries = np.random.default_rng(5), 0.05, 3000
    samples = {
        "normal": lambda: rng.normal(0, 0.02, (tries, 48)),
        "heavy tails": lambda: rng.standard_t(3, (tries, 48)) * 0.01,
        "outliers": lambda: (
            rng.normal(0, 0.01, (tries, 48))
            + rng.normal(0, 0.1, (tries, 48)) * (rng.random((tries, 48)) < 0.05)
        ),
    }[noise]()
    alarms = sum(Looks(tuple(logs), SIZES, 8).p_above(0) <= level for logs in samples)
    plain = sum(any(p_above(logs[:n], 0) <= level for n in SIZES) for logs in samples)
    assert alarms / tries <= level
    assert plain / tries > 2 * level


@pytest.mark.parametrize(("sizes", "shares"), [((), 8), ((4, 6), 1), ((60,), 8), ((0,), 8)])
def test_impossible_looks_are_refused(sizes: tuple[int, ...], shares: int) -> None:
    with pytest.raises(ValueError, match="look"):
        Looks((0.1,) * 48, sizes, shares)
