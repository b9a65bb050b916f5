"""A confidence interval of the ratio between two arms that were measured in pairs.

The logarithms of the paired ratios are taken to be normal (Student's t, see `stats`), which is what
run-to-run noise looks like. Knows nothing of engines; comparisons across many metrics and their
corrections are not made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from enginebench_reports.stats import log_ratios, ratio, t_interval

__all__ = ["CONFIDENCE", "FEWEST_PAIRS", "Ratio", "paired_ratio"]

FEWEST_PAIRS = 3
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio, with its 95% interval if there were enough pairs to have one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 1; without an interval nothing is known to be unclear."""
        if self.low is None or self.high is None:
            return True
        return not self.low <= 1 <= self.high


def paired_ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The geometric mean of first / second over `pairs` (all positive, at least one)."""
    logs = log_ratios([(second, first) for first, second in pairs])
    if len(logs) < FEWEST_PAIRS:
        return Ratio(ratio(logs))
    low, high = t_interval(logs, CONFIDENCE)
    return Ratio(ratio(logs), math.exp(low), math.exp(high))
