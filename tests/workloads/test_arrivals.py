from itertools import islice, pairwise

import numpy as np
import pytest

from enginebench_workloads.arrivals import ARRIVALS, Arrival, arrival_times


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_gaps_have_the_mean_of_the_rate(arrival: Arrival) -> None:
    times = list(islice(arrival_times(np.random.default_rng(1), 4.0, arrival), 20_001))
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] / 20_000 == pytest.approx(0.25, rel=0.03)


def test_constant_gaps_are_equal_and_gamma_is_burstier_than_poisson() -> None:
    def spread(arrival: Arrival) -> float:
        times = islice(arrival_times(np.random.default_rng(2), 1.0, arrival), 5_000)
        gaps = [later - sooner for sooner, later in pairwise(times)]
        return float(np.std(gaps))

    assert spread("constant") == pytest.approx(0.0, abs=1e-6)
    assert spread("poisson") == pytest.approx(1.0, rel=0.1)
    assert spread("gamma") == pytest.approx(2**0.5, rel=0.1)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_that_is_not_positive_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"above 0, not {rate}"):
        next(arrival_times(np.random.default_rng(0), rate, "poisson"))
