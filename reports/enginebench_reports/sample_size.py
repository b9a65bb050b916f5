"""How many independent samples the gaps between tokens are worth, which are not independent.

Two things tie gaps together, and the stronger one decides:

- Streams that run at the same time share each step of the engine, so that a slow step shows in
  all of them: gaps / mean number of streams is the number of steps.
- A request can be slow as a whole: with intraclass correlation r, m gaps of a request are worth
  m / (1 + (m - 1) r) (Kish's design effect; r from a one-way analysis of variance).
"""

from __future__ import annotations

import numpy as np

from enginebench_reports.measured import Floats, Ints, Measured

__all__ = ["independent_samples", "intraclass_correlation", "mean_streams"]

NO_SPREAD = 1e-9
"""Relative: gaps closer together than this differ by rounding only."""


def independent_samples(gaps: Floats, sizes: Ints, streams: float) -> float:
    """What `gaps` are worth; those of a request stand together, `sizes[i]` of request i."""
    if len(gaps) == 0:
        return 0.0
    design_effect = 1 + (_typical_size(sizes) - 1) * intraclass_correlation(gaps, sizes)
    return len(gaps) / max(streams, design_effect)


def intraclass_correlation(gaps: Floats, sizes: Ints) -> float:
    """The share of the variance that lies between requests; 0 where that cannot be told."""
    mean = float(gaps.mean())
    if len(sizes) < 2 or len(gaps) == len(sizes) or np.ptp(gaps) <= NO_SPREAD * mean:
        return 0.0
    means = np.add.reduceat(gaps, np.cumsum(sizes) - sizes) / sizes
    squares_between = float((sizes * (means - mean) ** 2).sum())
    squares_in_all = float(np.square(gaps - mean).sum())
    between = squares_between / (len(sizes) - 1)
    within = (squares_in_all - squares_between) / (len(gaps) - len(sizes))
    total = between + (_typical_size(sizes) - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > 0 else 0.0


def mean_streams(measured: Measured) -> float:
    """How many answers were streaming at a time, on average while any could be; at least 1."""
    first, end = measured.first_ns[measured.answered], measured.end_ns[measured.answered]
    if len(first) == 0 or end.max() <= first.min():
        return 1.0
    return max(1.0, float((end - first).sum() / (end.max() - first.min())))


def _typical_size(sizes: Ints) -> float:
    """The group size that unequal groups are worth in a one-way analysis of variance."""
    if len(sizes) < 2:
        return float(sizes.sum())
    total = sizes.sum()
    return float((total - (sizes.astype(float) ** 2).sum() / total) / (len(sizes) - 1))
