"""What changed from one arm to another: each figure's change, its interval, and a verdict in words.

Nothing is passed or failed here (`gate` does that). A change is called better or worse when the
paired t-test excludes "no change" at 5% for the whole table together (Holm), and the interval
printed is the one that belongs to that test; with fewer than three pairs there is neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from enginebench.errors import UnknownNameError
from enginebench.types import MetricInfo
from enginebench_reports.compare_arms import Arm, Pairs, Place, match, pairs_of
from enginebench_reports.interval import FEWEST_PAIRS
from enginebench_reports.stats import bootstrap_interval, log_ratios, p_above, p_below, t_interval
from enginebench_reports.stats_family import holm

__all__ = ["DEFAULT_METRICS", "Comparison", "Contrast", "chosen_metrics", "compare"]

DEFAULT_METRICS = (
    "output_tokens_per_s",
    "ttft_s_p50",
    "tpot_s_p50",
    "itl_s_p99",
    "peak_rss_bytes",
    "peak_gpu_memory_bytes",
    "energy_j_per_token",
)
"""Shown unless others are asked for; those that no cell has are left out."""
LEVEL = 0.05

Verdict = Literal["better", "worse", "higher", "lower", "no clear change", "too few repeats"]


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """One figure at one place in both arms. Changes are ratios - 1: 0.03 is 3% more.

    `first` and `second` are geometric means; `low` and `high` bound the change.
    """

    pairs: Pairs
    first: float
    second: float
    low: float | None
    high: float | None
    bootstrap: tuple[float, float] | None
    verdict: Verdict

    @property
    def change(self) -> float:
        return self.second / self.first - 1


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two arms, everything that they have in common, and what only one has."""

    first: Arm
    second: Arm
    contrasts: Sequence[Contrast]
    only_first: Sequence[Place]
    only_second: Sequence[Place]


def chosen_metrics(
    names: Sequence[str], known: Mapping[str, MetricInfo], *, directed: bool = False
) -> Sequence[MetricInfo]:
    """The metrics of these names; with `directed`, "better" must mean something for each."""
    allowed = {n: i for n, i in known.items() if not directed or i.better != "neither"}
    for name in names:
        if name not in allowed:
            what = "metric with a better direction" if directed and name in known else "metric"
            raise UnknownNameError(what, name, allowed, fix="`bench metrics` explains them")
    return [allowed[name] for name in names]


def compare(first: Arm, second: Arm, chosen: Sequence[MetricInfo]) -> Comparison:
    """Every chosen metric at every common place; those without a single pair are left out."""
    found = match(first, second)
    pairs = [
        each
        for place, cells in found.both.items()
        for metric in chosen
        if (each := pairs_of(place, metric, cells)).values
    ]
    return Comparison(first, second, _contrasts(pairs), found.only_first, found.only_second)


def _contrasts(pairs: Sequence[Pairs]) -> Sequence[Contrast]:
    logs = [log_ratios(each.values) for each in pairs]
    enough = [place for place, each in enumerate(logs) if len(each) >= FEWEST_PAIRS]
    steps = dict(zip(enough, holm([_p(logs[place]) for place in enough], LEVEL), strict=True))
    contrasts = []
    for place, each in enumerate(pairs):
        step = steps.get(place)
        bounds = t_interval(logs[place], 1 - step.level) if step else None
        contrasts.append(_contrast(each, logs[place], bounds))
    return contrasts


def _p(logs: Sequence[float]) -> float:
    """Two-sided."""
    return min(1.0, 2 * min(p_above(logs, 0), p_below(logs, 0)))


def _contrast(pairs: Pairs, logs: Sequence[float], bounds: tuple[float, float] | None) -> Contrast:
    boot = bootstrap_interval(logs, 1 - LEVEL) if bounds else None
    return Contrast(
        pairs,
        _geometric_mean([one for one, _ in pairs.values]),
        _geometric_mean([other for _, other in pairs.values]),
        math.expm1(bounds[0]) if bounds else None,
        math.expm1(bounds[1]) if bounds else None,
        (math.expm1(boot[0]), math.expm1(boot[1])) if boot else None,
        _verdict(pairs.metric, bounds),
    )


def _verdict(metric: MetricInfo, bounds: tuple[float, float] | None) -> Verdict:
    if bounds is None:
        return "too few repeats"
    if bounds[0] <= 0 <= bounds[1]:
        return "no clear change"
    if metric.better == "neither":
        return "higher" if bounds[0] > 0 else "lower"
    return "better" if (bounds[0] > 0) == (metric.better == "higher") else "worse"


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))
