"""Where one engine overtakes another as the load grows.

Between the last measured load at which the one led and the first at which the other does, the
point is where straight lines through the two figures, over the logarithm of the load, would meet:
an estimate, which is why it always comes with an interval. That is Student's 95% over repeats
where at least three of them cross there, and never beyond those two loads; else the two loads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enginebench_reports.groups import Group, curve
from enginebench_reports.interval import CONFIDENCE, FEWEST_PAIRS
from enginebench_reports.quantities import tick
from enginebench_reports.stats import t_interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Crossover", "crossovers"]

Curve = Mapping[float, float]
"""A metric by load."""


@dataclass(frozen=True, slots=True)
class Crossover:
    """`overtaker` has the higher `metric` from `until` on; at `after` it was still behind.

    It overtakes at about `at`, between `low` and `high`.
    """

    overtaker: str
    overtaken: str
    metric: str
    after: float
    until: float
    at: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """`2.7 [1-4]`."""
        return f"{tick(float(f'{self.at:.2g}'))} [{tick(self.low)}-{tick(self.high)}]"


def crossovers(group: Group, first: str, second: str, metric: str) -> Sequence[Crossover]:
    """Every change of the leader between two engines, by rising load; ties change nothing."""
    mine = {point.load: point.median for point in curve(group, first, metric)}
    theirs = {point.load: point.median for point in curve(group, second, metric)}
    found = []
    leader, led_at = None, 0.0
    for load in sorted(mine.keys() & theirs.keys()):
        if mine[load] == theirs[load]:
            continue
        ahead = first if mine[load] > theirs[load] else second
        if leader is not None and ahead != leader:
            at = _meeting(mine, theirs, led_at, load)
            low, high = _interval(group, (first, second), metric, (led_at, load))
            found.append(Crossover(ahead, leader, metric, led_at, load, at, low, high))
        leader, led_at = ahead, load
    return found


def _meeting(mine: Curve, theirs: Curve, after: float, until: float) -> float:
    """Where the two lines meet between the two loads, at which they lie apart in different ways."""
    before, behind = mine[after] - theirs[after], mine[until] - theirs[until]
    share = before / (before - behind)
    return math.exp(math.log(after) + share * (math.log(until) - math.log(after)))


def _by_load(group: Group, frame: pd.DataFrame, name: str, metric: str) -> Curve:
    rows = frame[frame["label"] == name]
    return dict(zip(rows[group.load_column].map(float), rows[metric].map(float), strict=True))


def _interval(
    group: Group, names: tuple[str, str], metric: str, bracket: tuple[float, float]
) -> tuple[float, float]:
    """Over the repeats that cross inside the bracket; the bracket where they are too few."""
    logs = []
    for _, repeat in group.frame.groupby(["run", "repeat"]):
        mine, theirs = (_by_load(group, repeat, name, metric) for name in names)
        apart = [mine.get(load, 0.0) - theirs.get(load, 0.0) for load in bracket]
        if apart[0] * apart[1] < 0:  # false where a figure is missing (NaN)
            logs.append(math.log(_meeting(mine, theirs, *bracket)))
    if len(logs) < FEWEST_PAIRS:
        return bracket
    low, high = t_interval(logs, CONFIDENCE)
    return max(bracket[0], math.exp(low)), min(bracket[1], math.exp(high))
