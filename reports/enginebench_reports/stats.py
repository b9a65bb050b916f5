"""Paired comparison of two arms: effects, one-sided tests and intervals from run-level figures.

An observation is one pair of runs, never one request: requests of a run share its luck (clocks,
memory layout, neighbours) and are not independent. Everything works on logarithms of ratios within
pairs, so that 3% means the same for a fast and a slow cell, and what slows both runs of a pair
alike cancels. Knows no metric and no engine; repeated looks are `stats_sequential`'s, many
comparisons at a time `stats_family`'s.

    logs = log_ratios([(100.0, 103.1), (98.0, 100.7), (101.0, 104.2)])
    ratio(logs)                         # 1.031: the second arm's figure is 3.1% larger
    t_interval(logs, confidence=0.95)   # of the logarithm
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr, stdtrit

__all__ = [
    "bootstrap_interval",
    "log_ratios",
    "lower_bound",
    "p_above",
    "p_below",
    "ratio",
    "t_interval",
    "upper_bound",
]

FEWEST_FOR_BOOTSTRAP = 6
"""Below it there are too few different resamples for an interval that means anything."""

Logs = Sequence[float]
Floats = npt.NDArray[np.float64]


def log_ratios(pairs: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """log(second / first) of each pair; all figures must be positive."""
    return tuple(math.log(second / first) for first, second in pairs)


def ratio(logs: Logs) -> float:
    """The geometric mean of the ratios."""
    return math.exp(_mean(logs))


def p_above(logs: Logs, limit: float) -> float:
    """One-sided p-value (Student's t) against "the mean is at most `limit`"."""
    t, degrees = _t(logs, limit)
    return float(stdtr(degrees, -t))


def p_below(logs: Logs, limit: float) -> float:
    """One-sided p-value against "the mean is at least `limit`"."""
    t, degrees = _t(logs, limit)
    return float(stdtr(degrees, t))


def lower_bound(logs: Logs, level: float) -> float:
    """The mean is below it with probability `level`: exactly where `p_above` is `level`."""
    return _mean(logs) - _half_width(logs, level)


def upper_bound(logs: Logs, level: float) -> float:
    """The mean is above it with probability `level`."""
    return _mean(logs) + _half_width(logs, level)


def t_interval(logs: Logs, confidence: float) -> tuple[float, float]:
    """The two-sided interval; infinite for a single pair."""
    outside = (1 - confidence) / 2
    return lower_bound(logs, outside), upper_bound(logs, outside)


def bootstrap_interval(
    logs: Logs, confidence: float, *, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float] | None:
    """The BCa bootstrap interval of the mean, pairs resampled; None with too few pairs.

    Assumes no shape of the noise, and is too narrow with few pairs: a second opinion beside
    `t_interval`, never what a verdict rests on. (Efron, 1987, "Better bootstrap confidence
    intervals".)
    """
    values = np.asarray(logs, float)
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (resamples, len(values))).mean(axis=1)
    # ties count half, so that a symmetric sample has no bias
    share = (means < values.mean()).mean() + (means == values.mean()).mean() / 2
    outside = (1 - confidence) / 2
    levels = _bca_levels(np.array([outside, 1 - outside]), float(ndtri(share)), values)
    low, high = np.quantile(means, levels)
    return float(low), float(high)


def _bca_levels(nominal: Floats, bias: float, values: Floats) -> Floats:
    """Which quantiles of the resampled means to take instead of the nominal ones."""
    n = len(values)
    jackknife = (values.sum() - values) / (n - 1)
    centred = jackknife.mean() - jackknife
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = bias + ndtri(nominal)
    levels: Floats = ndtr(bias + z / (1 - acceleration * z))
    return levels


def _mean(logs: Logs) -> float:
    return math.fsum(logs) / len(logs)


def _half_width(logs: Logs, level: float) -> float:
    if len(logs) < 2:
        return math.inf
    return float(-stdtrit(len(logs) - 1, level)) * _standard_error(logs)


def _standard_error(logs: Logs) -> float:
    mean = _mean(logs)
    variance = math.fsum((log - mean) ** 2 for log in logs) / (len(logs) - 1)
    return math.sqrt(variance / len(logs))


def _t(logs: Logs, limit: float) -> tuple[float, int]:
    """The statistic and its degrees of freedom; one pair alone says nothing (t = 0).

    Without any scatter the mean is taken for exact.
    """
    if len(logs) < 2:
        return 0.0, 1
    distance, error = _mean(logs) - limit, _standard_error(logs)
    if error == 0:
        return math.copysign(math.inf, distance) if distance else 0.0, len(logs) - 1
    return distance / error, len(logs) - 1
