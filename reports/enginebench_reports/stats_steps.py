"""Where a series of figures steps from one level to another, and how sure that is.

The method: the split of the series at which the means of both sides lie farthest apart (the largest
standardized CUSUM), held against the same statistic of the series in random order. If nothing
changed, every order is as likely as the one that came, so the share of orders with a statistic at
least as large is a p-value that holds whatever shape the noise has. (A permutation test; for
change-points: Antoch and Huskova, "Permutation tests in change point analysis", 2001.) A step that
was taken back later hides from splits; the stretch whose mean lies farthest from the rest (circular
binary segmentation: Olshen et al., 2004) is tested beside, each test at half the level. What lies
between the steps found is searched in the same way, with equal shares of the level, so that
all of it together gets a step too many with probability `level` at most, or hardly more.

What it rests on: noise that is alike and independent along the series. Slow drift of a machine
breaks that, and looks like steps. A step near an end needs more to be believed than one in the
middle, since few orders put so few figures there: `fewest_after` says how many.

    find_steps([4.60, 4.61, 4.60, 4.61, 4.60, 4.71, 4.70, 4.71, 4.70, 4.71], level=0.05)
    # one Step, at=5: the sixth figure is the first after it
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Step", "fewest_after", "find_steps", "segments"]

Floats = npt.NDArray[np.float64]

ORDERS_PER_LEVEL = 20
"""Random orders, in units of 1 / level: enough that the test loses little to their number."""
FEWEST_ORDERS, MOST_ORDERS = 999, 99_999
CHUNK = 1_000_000
"""Statistics held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Step:
    """Figures from index `at` on have another mean than those before it.

    `p_value` may be held against the level of the whole series. `before` and `after` are the means
    of the segments that meet here.
    """

    at: int
    p_value: float
    before: float
    after: float


def find_steps(values: Sequence[float], level: float, *, seed: int = 0) -> Sequence[Step]:
    """All steps in order; with probability `level` at most there is one too many."""
    if len(values) == 0:
        return []
    array = np.asarray(values, float)
    found = sorted(_search(array, 0, level, np.random.default_rng(seed)))
    bounds = [0, *(at for at, _ in found), len(array)]
    means = [float(array[start:end].mean()) for start, end in segments(bounds)]
    return [
        Step(at, p_value, means[place], means[place + 1])
        for place, (at, p_value) in enumerate(found)
    ]


def segments(bounds: Sequence[int]) -> Sequence[tuple[int, int]]:
    """Start and end of what lies between neighbouring bounds."""
    return list(itertools.pairwise(bounds))


def fewest_after(count: int, level: float) -> int | None:
    """How many of `count` figures must lie behind a step for it to be found at all.

    Of all orders, those with the same figures at either end cannot be told from what came. None:
    so few figures that no step in them can be found.
    """
    for after in range(1, count // 2 + 1):
        ways = math.comb(count, after)
        alike = 1 if 2 * after == count else 2
        if alike / ways <= level / 2:  # the other half is for steps that were taken back
            return after
    return None


def _search(
    values: Floats, offset: int, level: float, rng: np.random.Generator
) -> list[tuple[int, float]]:
    """Where it steps, with the p-value of each."""
    if fewest_after(len(values), level) is None or np.ptp(values) == 0:
        return []
    for statistics in (_splits, _stretches):
        edges, p_value = _strongest(values, statistics, level / 2, rng)
        if p_value <= level / 2:
            break
    else:
        return []
    parts = segments([0, *edges, len(values)])
    inner = [
        found
        for start, end in parts
        for found in _search(values[start:end], offset + start, level / len(parts), rng)
    ]
    return [
        *((offset + edge, min(1.0, 2 * p_value)) for edge in edges),
        *((where, min(1.0, len(parts) * p)) for where, p in inner),
    ]


Statistics = Callable[[Floats], tuple[Floats, Sequence[tuple[int, ...]]]]
"""Of series (rows): one figure for each way to cut them, and where these ways cut."""


def _strongest(
    values: Floats, statistics: Statistics, level: float, rng: np.random.Generator
) -> tuple[tuple[int, ...], float]:
    """The cut that divides best, and how often a random order divides as well.

    Stops early where it is clear that the p-value is above `level`; it is then too small.
    """
    (own,), cuts = statistics(values[None, :])
    # sums of the same figures in another order differ in their last bits
    reached = own.max() * (1 - 1e-9)
    orders = min(MOST_ORDERS, max(FEWEST_ORDERS, math.ceil(ORDERS_PER_LEVEL / level)))
    rows = max(1, CHUNK // len(cuts))
    as_large = 0
    for start in range(0, orders, rows):
        shape = (min(rows, orders - start), len(values))
        shuffled = rng.permuted(np.broadcast_to(values, shape), axis=1)
        as_large += int((statistics(shuffled)[0].max(axis=1) >= reached).sum())
        if as_large + 1 > level * (orders + 1):
            break
    return cuts[int(own.argmax())], (as_large + 1) / (orders + 1)


def _splits(rows: Floats) -> tuple[Floats, Sequence[tuple[int, ...]]]:
    """For each cut in two: how far apart the means of the sides are."""
    count = rows.shape[1]
    left = np.arange(1, count)
    return _standardized(_sums(rows)[:, 1:-1], left, count), [(int(at),) for at in left]


def _stretches(rows: Floats) -> tuple[Floats, Sequence[tuple[int, ...]]]:
    """For each stretch with figures on both sides: how far its mean is from that of the rest."""
    count = rows.shape[1]
    starts, ends = np.triu_indices(count, k=1)
    inner = starts > 0
    starts, ends = starts[inner], ends[inner]
    sums = _sums(rows)
    cuts = list(zip(starts.tolist(), ends.tolist(), strict=True))
    return _standardized(sums[:, ends] - sums[:, starts], ends - starts, count), cuts


def _sums(rows: Floats) -> Floats:
    """Of the centred rows: sums of the first 0, 1, ... all figures."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    sums: Floats = np.pad(centred.cumsum(axis=1), ((0, 0), (1, 0)))
    return sums


def _standardized(sums: Floats, sizes: npt.NDArray[np.int64], count: int) -> Floats:
    """In units that have equal variance however many figures a sum is of."""
    found: Floats = np.abs(sums) / np.sqrt(sizes * (count - sizes) / count)
    return found
