"""Percentiles, and when a sample is large enough to have one.

Two thresholds, both from counting how many samples are expected to lie beyond the percentile:

- *printed*: at least one sample is expected beyond it, n >= 1 / (1 - q): 2 for p50, 10 for p90,
  100 for p99. Below that the figure would be the sample's maximum under another name; it is None.
- *bounded*: the sample also yields a 99%-confidence upper bound that is not its very maximum,
  i.e. P(Binomial(n, 1 - q) <= 1) <= 1%: 11 for p50, 64 for p90, 662 for p99. Between the two
  thresholds a figure is an estimate, and reports mark it with `~`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from enginebench_reports.measured import Floats

__all__ = [
    "PERCENTS",
    "bounded_from",
    "is_bounded",
    "is_supported",
    "percentiles",
    "printed_from",
]

PERCENTS = (50, 90, 99)
CONFIDENCE = 0.99


def printed_from(percent: int) -> int:
    """The smallest sample whose percentile is printed at all."""
    return -(-100 // (100 - percent))


@cache
def bounded_from(percent: int) -> int:
    """The smallest sample that bounds the percentile from above with 99% confidence."""
    beyond, n = 1 - percent / 100, 2
    while (1 - beyond) ** n + n * beyond * (1 - beyond) ** (n - 1) > 1 - CONFIDENCE:
        n += 1
    return n


def is_supported(percent: int, samples: float) -> bool:
    return samples >= printed_from(percent)


def is_bounded(percent: int, samples: float) -> bool:
    return samples >= bounded_from(percent)


def percentiles(
    values: Floats, percents: Sequence[int] = PERCENTS, *, samples: float | None = None
) -> list[float | None]:
    """Linear interpolation between order statistics; None where the sample is too small.

    `samples` is how many independent samples the values are worth, if not one each.
    """
    worth = len(values) if samples is None else samples
    if len(values) == 0:
        return [None] * len(percents)
    found = np.percentile(values, percents)
    return [
        float(value) if is_supported(percent, worth) else None
        for percent, value in zip(percents, found, strict=True)
    ]
