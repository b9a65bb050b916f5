"""How many independent samples the gaps between tokens are worth, which are not independent.

Two things tie gaps together, and the stronger one decides:

- Streams that run at the same time share each step of the engine, so that a slow step shows in
  all of them: gaps / mean number of streams is the number of steps.
- A request can be slow as a whole: with intraclass correlation r, m gaps of a request are worth
  m / (1 + (m - 1) r) (Kish's design effect; r from a one-way analysis of variance).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from enginebench_reports.measured import Floats, Measured

__all__ = ["independent_samples", "intraclass_correlation", "mean_streams"]

NO_SPREAD = 1e-9
"""Relative: gaps closer together than this differ by rounding only."""

Owners = npt.NDArray[np.int32]


def independent_samples(gaps: Floats, owners: Owners, streams: float) -> float:
    """What `gaps` are worth; `owners[i]` is the request of gap i, in rising order."""
    if len(gaps) == 0:
        return 0.0
    sizes = _sizes(owners)
    correlation = intraclass_correlation(gaps, owners)
    design_effect = 1 + (_typical_size(sizes) - 1) * correlation
    return len(gaps) / max(streams, design_effect)


def intraclass_correlation(gaps: Floats, owners: Owners) -> float:
    """The share of the variance that lies between requests; 0 where that cannot be told."""
    sizes = _sizes(owners)
    if len(sizes) < 2 or len(gaps) == len(sizes) or np.ptp(gaps) <= NO_SPREAD * gaps.mean():
        return 0.0
    starts = np.cumsum(sizes) - sizes
    means = np.add.reduceat(gaps, starts) / sizes
    between = (sizes * (means - gaps.mean()) ** 2).sum() / (len(sizes) - 1)
    within = ((gaps - np.repeat(means, sizes)) ** 2).sum() / (len(gaps) - len(sizes))
    total = between + (_typical_size(sizes) - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > 0 else 0.0


def mean_streams(measured: Measured) -> float:
    """How many answers were streaming at a time, on average while any could be; at least 1."""
    first, end = measured.first_ns[measured.answered], measured.end_ns[measured.answered]
    if len(first) == 0 or end.max() <= first.min():
        return 1.0
    return max(1.0, float((end - first).sum() / (end.max() - first.min())))


def _sizes(owners: Owners) -> npt.NDArray[np.int64]:
    """How many gaps each request has that has any."""
    counts = np.bincount(owners)
    return counts[counts > 0]


def _typical_size(sizes: npt.NDArray[np.int64]) -> float:
    """The group size that unequal groups are worth in a one-way analysis of variance."""
    if len(sizes) < 2:
        return float(sizes.sum())
    total = sizes.sum()
    return float((total - (sizes.astype(float) ** 2).sum() / total) / (len(sizes) - 1))
