import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_workloads.distribution import Distribution


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("256", 256, 0),
        ("uniform:100:300", 200, 201 / 12**0.5),
        ("normal:400:50", 400, 50),
        ("lognormal:256:192", 256, 192),
        ("lognormal:100:0", 100, 0),
    ],
)
def test_draws_have_the_mean_and_deviation_that_are_written(
    text: str, mean: float, deviation: float
) -> None:
    made = Distribution.parse(text)
    drawn = made.draw(np.random.default_rng(3), 40_000)
    assert made.mean == mean
    assert np.mean(drawn) == pytest.approx(mean, rel=0.02)
    assert np.std(drawn) == pytest.approx(deviation, rel=0.05, abs=0.5)


def test_uniform_reaches_both_ends() -> None:
    drawn = Distribution.parse("uniform:3:5").draw(np.random.default_rng(0), 200)
    assert set(drawn) == {3, 4, 5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be N, uniform:LOW:HIGH"),
        ("many", "must be N, uniform"),
        ("gauss:1:2", "must be N, uniform"),
        ("uniform:5", "must be N, uniform"),
        ("normal:1:2:3", "must be N, uniform"),
        ("0", "at least 1"),
        ("1.5", "whole numbers"),
        ("uniform:1.5:2.5", "whole numbers"),
        ("uniform:9:3", "HIGH must not be below LOW"),
        ("normal:100:-1", "SD must be 0 or more"),
        ("normal:nan:1", "lengths must be numbers"),
        ("lognormal:100:inf", "lengths must be numbers"),
        ("99999999999", "up to 10000000"),
    ],
)
def test_what_cannot_be_read_says_how_it_is_written(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Distribution.parse(text)


@given(st.text(alphabet="uniformlg:0123456789.-e", max_size=20), st.integers(0, 2**32))
def test_what_can_be_read_can_be_drawn_from(text: str, seed: int) -> None:
    try:
        made = Distribution.parse(text)
    except ValueError:
        return
    assert len(made.draw(np.random.default_rng(seed), 5)) == 5
