"""Trends: a figure at one place on one machine, commit after commit, and where it stepped.

    for trend in trends(store.entries(DEFAULT_METRICS), false_alarms=0.01):
        for step in trend.steps:
            print(step.commit.id, step.slowdown)

Machines are never mixed: what one measured says nothing of another. All figures of a commit count
as one observation (their geometric mean), since Runs of one hour share its luck. The method is
`stats_steps`'; its level is split over all series that are looked at, so that a whole table in
which nothing happened shows a step with probability `false_alarms` at most.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from enginebench.types import MetricInfo
from enginebench_reports.compare_arms import Place
from enginebench_reports.history_store import Commit, Entry
from enginebench_reports.stats_steps import Step, fewest_after, find_steps

__all__ = ["CommitStep", "Point", "Trend", "machine_title", "trends"]


@dataclass(frozen=True, slots=True)
class Point:
    """A commit's figure: the geometric mean of `count` cells."""

    commit: Commit
    value: float
    count: int


@dataclass(frozen=True, slots=True)
class CommitStep:
    """`commit` is the first measured one with the new level, `last` the one measured before it.

    `slowdown` is a share; positive is worse, whatever the metric.
    """

    last: Commit
    commit: Commit
    slowdown: float
    p_value: float

    @property
    def is_worse(self) -> bool:
        return self.slowdown > 0


@dataclass(frozen=True, slots=True, eq=False)
class Trend:
    """One series, and what was found in it. `fewest` commits must lie behind a step for it to be
    found; None: the series is too short to find any.
    """

    machine: str
    place: Place
    metric: MetricInfo
    points: Sequence[Point]
    steps: Sequence[CommitStep]
    fewest: int | None

    @property
    def since_first(self) -> float:
        """How much worse the last figure is than the first, as a share."""
        return _slowdown(self.metric, math.log(self.points[-1].value / self.points[0].value))

    @property
    def levels(self) -> Sequence[tuple[int, int, float]]:
        """First and last place of each stretch between steps, and its geometric mean."""
        ids = [point.commit.id for point in self.points]
        bounds = [0, *(ids.index(step.commit.id) for step in self.steps), len(ids)]
        return [
            (start, end - 1, _mean([point.value for point in self.points[start:end]]))
            for start, end in itertools.pairwise(bounds)
        ]


def trends(entries: Sequence[Entry], *, false_alarms: float) -> Sequence[Trend]:
    """One for each machine, place and metric, machine by machine."""
    series: dict[tuple[str, Place, MetricInfo], dict[str, list[Entry]]] = {}
    for entry in entries:
        commits = series.setdefault((entry.machine, entry.place, entry.metric), {})
        commits.setdefault(entry.commit.id, []).append(entry)
    level = false_alarms / max(1, len(series))
    return [
        _trend(*key, [_point(found) for found in commits.values()], level)
        for key, commits in sorted(series.items(), key=lambda item: item[0][0])
    ]


def machine_title(machine: str) -> str:
    """`AMD EPYC, 2 cores, no GPU` of the identity that the store holds."""
    facts = json.loads(machine)
    parts = [str(facts.get("CPU") or "unknown CPU"), f"{facts.get('usable cores')} cores"]
    if facts.get("CPU limit in cores") is not None:
        parts.append(f"limited to {facts['CPU limit in cores']:g}")
    gpus = facts.get("GPUs", "none")
    return ", ".join([*parts, "no GPU" if gpus == "none" else str(gpus)])


def _trend(
    machine: str, place: Place, metric: MetricInfo, points: Sequence[Point], level: float
) -> Trend:
    found = find_steps([math.log(point.value) for point in points], level)
    steps = [_commit_step(metric, points, step) for step in found]
    return Trend(machine, place, metric, points, steps, fewest_after(len(points), level))


def _commit_step(metric: MetricInfo, points: Sequence[Point], step: Step) -> CommitStep:
    return CommitStep(
        points[step.at - 1].commit,
        points[step.at].commit,
        _slowdown(metric, step.after - step.before),
        step.p_value,
    )


def _point(entries: Sequence[Entry]) -> Point:
    return Point(entries[0].commit, _mean([entry.value for entry in entries]), len(entries))


def _mean(values: Sequence[float]) -> float:
    """Geometric."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _slowdown(metric: MetricInfo, log_ratio: float) -> float:
    return math.expm1(-log_ratio if metric.better == "higher" else log_ratio)
