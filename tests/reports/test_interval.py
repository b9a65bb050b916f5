from __future__ import annotations

import math
import random
import statistics

import pytest

from enginebench_reports.interval import paired_ratio


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)],
)
def test_students_t_as_printed_in_tables(degrees: int, expected: float) -> None:
    logs = [math.sin(place) for place in range(degrees + 1)]
    found = paired_ratio([(math.exp(log), 1.0) for log in logs])
    assert found.high is not None
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    assert math.log(found.high / found.value) / error == pytest.approx(expected, abs=5e-4)


def test_the_ratio_is_the_geometric_mean() -> None:
    assert paired_ratio([(2, 1), (8, 1)]).value == pytest.approx(4)


def test_two_pairs_are_too_few_for_an_interval() -> None:
    assert paired_ratio([(2, 1), (3, 1)]).low is None
    assert paired_ratio([(2, 1), (3, 1), (2, 1)]).low is not None


def test_what_moves_both_arms_moves_no_interval() -> None:
    """A machine that gets slower halfway slows both: pairing takes it out."""
    ratio = paired_ratio([(200, 100), (100, 50), (20, 10)])
    assert (ratio.low, ratio.high) == pytest.approx((2, 2))


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    rng, truth, covered = random.Random(7), 1.05, 0
    for _ in range(2000):
        noise = [math.exp(rng.gauss(0, 0.02)) for _ in range(10)]
        pairs = [(truth * noise[place], noise[place + 1]) for place in range(0, 10, 2)]
        ratio = paired_ratio(pairs)
        assert ratio.low is not None and ratio.high is not None
        covered += ratio.low <= truth <= ratio.high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)
