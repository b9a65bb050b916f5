"""The lines of a figure: an engine within a group, and what it is called where groups are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enginebench.errors import UsageError
from enginebench.results import ResultSet
from enginebench_reports.groups import Group, Point, curve, groups
from enginebench_reports.look import Mark

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Look", "Series", "series_of"]

Look = Mapping[str, Mark]


@dataclass(frozen=True, slots=True)
class Series:
    """`name` is unique in a figure, `label` the engine with its options."""

    name: str
    group: Group
    label: str

    def curve(self, metric: str) -> Sequence[Point]:
        return curve(self.group, self.label, metric)

    def tip(self, point: Point, text: str) -> str:
        """What a point of it says when it is touched."""
        repeats = f", median of {point.repeats} repeats" if point.repeats > 1 else ""
        return f"{self.name} at {self.group.load_text(point.load)}: {text}{repeats}"


def series_of(data: ResultSet | pd.DataFrame | Group) -> Sequence[Series]:
    """Every engine of every group; names carry the group's title only where there are several."""
    if isinstance(data, Group):
        found: Sequence[Group] = [data]
    else:
        found = groups(data.to_pandas() if isinstance(data, ResultSet) else data)
    if len({group.loop for group in found}) > 1:
        raise UsageError(
            "closed-loop and open-loop cells cannot share a figure; select one kind, for example "
            "frame[frame.users.notna()]"
        )
    return [
        Series(label if len(found) == 1 else f"{label}, {group.title}", group, label)
        for group in found
        for label in group.labels
    ]
