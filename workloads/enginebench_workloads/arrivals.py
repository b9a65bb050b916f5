"""When requests of an open loop are due: computed before the start, never from the answers.

A schedule that waits for the server hides overload ("coordinated omission"); this one does not know
that a server exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ARRIVALS", "Arrival", "arrival_times"]

Arrival = Literal["constant", "poisson", "gamma"]
ARRIVALS: tuple[Arrival, ...] = get_args(Arrival)


def arrival_times(
    rng: np.random.Generator, rate_rps: float, arrival: Arrival, *, shape: float = 0.5
) -> Iterator[float]:
    """Seconds from the start at which requests are due, without end; the first is due at 0.

    Gaps have mean 1 / rate: equal ("constant"), exponential ("poisson"), or gamma with the given
    `shape` ("gamma": below 1 is burstier than poisson, above 1 smoother).
    """
    if rate_rps <= 0:
        raise ValueError(f"rate_rps must be above 0, not {rate_rps}")
    mean, due = 1.0 / rate_rps, 0.0
    while True:
        yield due
        if arrival == "constant":
            due += mean
        elif arrival == "poisson":
            due += float(rng.exponential(mean))
        else:
            due += float(rng.gamma(shape, mean / shape))
