from __future__ import annotations

import numpy as np
import pytest

from enginebench_reports.sample_size import independent_samples, intraclass_correlation

RNG = np.random.default_rng(3)


def sizes(requests: int, gaps: int) -> np.ndarray:
    return np.full(requests, gaps)


def test_independent_gaps_of_one_stream_all_count() -> None:
    gaps = RNG.exponential(0.01, 2000)
    assert independent_samples(gaps, sizes(20, 100), 1.0) > 1000


def test_requests_that_are_slow_as_a_whole_count_once_each() -> None:
    gaps = np.repeat(RNG.lognormal(0, 0.3, 50), 100) + RNG.normal(0, 1e-4, 5000)
    assert independent_samples(gaps, sizes(50, 100), 1.0) == pytest.approx(50, rel=0.05)


def test_streams_that_run_together_count_as_one() -> None:
    gaps = RNG.exponential(0.01, 1600)
    assert independent_samples(gaps, sizes(16, 100), 16.0) == pytest.approx(100)


def test_the_known_correlation_is_found() -> None:
    """Between-request variance 1, within 3: a quarter lies between requests."""
    requests, gaps = 2000, 30
    values = np.repeat(RNG.normal(0, 1, requests), gaps) + RNG.normal(0, 3**0.5, requests * gaps)
    found = intraclass_correlation(values + 100, sizes(requests, gaps))
    assert found == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("requests", [1, 5])
def test_gaps_that_are_all_alike_show_no_correlation(requests: int) -> None:
    gaps = np.full(requests * 10, 0.01)
    gaps[3] += 1e-15
    assert independent_samples(gaps, sizes(requests, 10), 1.0) == requests * 10


def test_one_gap_a_request_and_none_at_all() -> None:
    assert independent_samples(RNG.exponential(1, 7), sizes(7, 1), 1.0) == 7
    assert independent_samples(np.empty(0), sizes(0, 0), 1.0) == 0
