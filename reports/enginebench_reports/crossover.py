"""Where one engine overtakes another as the load grows.

Only measured loads are named: between the last load at which the one led and the first at which the
other does lies the crossover, and nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginebench_reports.groups import Group, curve

__all__ = ["Crossover", "crossovers"]


@dataclass(frozen=True, slots=True)
class Crossover:
    """`overtaker` has the higher `metric` from `until` on; at `after` it was still behind."""

    overtaker: str
    overtaken: str
    metric: str
    after: float
    until: float


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
            found.append(Crossover(ahead, leader, metric, led_at, load))
        leader, led_at = ahead, load
    return found
