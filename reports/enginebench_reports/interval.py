"""A confidence interval of the ratio between two arms that were measured in pairs.

The logarithms of the paired ratios are taken to be normal (Student's t), which is what run-to-run
noise looks like. Knows nothing of engines; comparisons across many metrics and their corrections
are not made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FEWEST_PAIRS", "Ratio", "paired_ratio", "t_quantile"]

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
    logs = [math.log(first / second) for first, second in pairs]
    mean = math.fsum(logs) / len(logs)
    if len(logs) < FEWEST_PAIRS:
        return Ratio(math.exp(mean))
    variance = math.fsum((log - mean) ** 2 for log in logs) / (len(logs) - 1)
    half = t_quantile(len(logs) - 1) * math.sqrt(variance / len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def t_quantile(degrees: int) -> float:
    """The t beyond which, on both sides, 5% of Student's distribution lies."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, degrees) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def _inside(t: float, degrees: int) -> float:
    """P(|T| <= t) for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cos, sin = math.cos(angle), math.sin(angle)
    odd = degrees % 2 == 1
    term = cos if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sin * total) if odd else sin * total
