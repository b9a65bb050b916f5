"""Everything that a report says, computed once: figures, flags, answers, groups. Formats render it.

Metrics of plugins that are not ours are in `frame` and `infos` like the built-in ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from enginebench.results import CellResult, ResultSet
from enginebench.types import MetricInfo
from enginebench_reports.answer import Answer, answers, no_answer
from enginebench_reports.groups import Group, groups, without_null
from enginebench_reports.look import Mark, marks
from enginebench_reports.validity import Flag, flags

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CellSummary", "Summary"]


@dataclass(frozen=True, slots=True, eq=False)
class CellSummary:
    """One cell: its facts, its figures (None where it has none) and the reasons to doubt them."""

    result: CellResult
    figures: Mapping[str, float | None]
    flags: Sequence[Flag]

    @property
    def is_valid(self) -> bool:
        return not any(flag.level == "invalid" for flag in self.flags)


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """`cells[i]` is row i of `frame`."""

    results: ResultSet
    frame: pd.DataFrame
    infos: Mapping[str, MetricInfo]
    cells: Sequence[CellSummary]
    answers: Sequence[Answer]
    groups: Sequence[Group]
    marks: Mapping[str, Mark]

    @classmethod
    def of(cls, results: ResultSet) -> Self:
        """Compute it all; raises StoreError for a Run whose files are damaged."""
        from enginebench.plugins import metrics

        frame = results.to_pandas()
        infos = {info.name: info for metric in metrics() for info in metric.columns}
        cells = [
            _cell(result, row, infos) for result, row in zip(results, _rows(frame), strict=True)
        ]
        believable = frame[[cell.is_valid for cell in cells]] if cells else frame
        return cls(
            results,
            frame,
            infos,
            cells,
            answers(believable),
            groups(frame),
            marks(
                (result.cell.spec.label for result in results),
                last=(result.cell.spec.label for result in results if result.is_null),
            ),
        )

    @property
    def headline(self) -> str:
        """The first answer, or why there is none."""
        return self.answers[0].text if self.answers else no_answer(self.frame)

    def answer_of(self, group: Group) -> Answer | None:
        """What the believable cells of a group say."""
        cells = set(group.frame.index)
        return next(
            (each for each in self.answers if cells.issuperset(each.group.frame.index)), None
        )

    def believable(self, group: Group) -> pd.DataFrame:
        """The rows of a group that figures are drawn from: no invalid cells, no null engines."""
        valid = group.frame[[self.cells[int(row)].is_valid for row in group.frame.index]]
        return without_null(valid)

    @property
    def all_believable(self) -> ResultSet:
        """The cells of every group that figures are drawn from."""
        return ResultSet([cell for group in self.groups for cell in self.results_of(group)])

    @property
    def null_engines(self) -> Sequence[str]:
        """Engines here that compute nothing."""
        return sorted({each.cell.spec.label for each in self.results if each.is_null})

    def results_of(self, group: Group) -> ResultSet:
        """The believable cells of a group."""
        rows = self.believable(group).index
        return ResultSet([self.results.cells[int(row)] for row in rows])


def _rows(frame: pd.DataFrame) -> Sequence[Mapping[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _cell(
    result: CellResult, row: Mapping[str, object], infos: Mapping[str, MetricInfo]
) -> CellSummary:
    figures = {name: _figure(row[name]) for name in infos if name in row}
    return CellSummary(result, figures, flags(result, figures))


def _figure(value: object) -> float | None:
    return float(value) if isinstance(value, float) and math.isfinite(value) else None
