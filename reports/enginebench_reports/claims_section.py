"""The claims as a section of the page: what holds and what does not, each with its cells.

Claims that could not be tested stand in a list of their own. Where nothing of the built-in claims
could be, there is no section: a Run of other engines has nothing to do with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginebench_reports.claims import Ruling, judge_cells
from enginebench_reports.claims_documents import deciding_cells, figure_lines
from enginebench_reports.claims_file import chosen_claims
from enginebench_reports.summary import Summary

__all__ = ["ClaimRow", "ClaimsSection"]

STATUS = {"holds": "ok", "does not hold": "invalid", "cannot be tested here": "caution"}
MOST_CELLS = 4


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim on the page. `cells` are what its verdict rests on: name, and number in the report;
    `more` counts those that are not named.
    """

    ruling: Ruling
    status: str
    lines: Sequence[str]
    cells: Sequence[tuple[str, int]]
    more: int


@dataclass(frozen=True, slots=True)
class ClaimsSection:
    """Rows of claims that were settled, and of those that could not be."""

    settled: Sequence[ClaimRow]
    untested: Sequence[ClaimRow]

    @classmethod
    def of(cls, summary: Summary) -> ClaimsSection | None:
        """None where there is nothing to say."""
        results = summary.results
        rulings = judge_cells(chosen_claims(results), summary.cells)
        numbers = _numbers(summary)
        rows = [_row(ruling, numbers) for ruling in rulings]
        settled = [row for row in rows if row.status != "caution"]
        untested = [row for row in rows if row.status == "caution"]
        return cls(settled, untested) if settled or results.claims_file else None


def _row(ruling: Ruling, numbers: dict[str, int]) -> ClaimRow:
    names = list(dict.fromkeys(name for test in ruling.tests for name in deciding_cells(test)))
    shown = [(name, numbers[name]) for name in names[:MOST_CELLS]]
    lines = list(figure_lines(ruling))
    return ClaimRow(ruling, STATUS[ruling.verdict], lines, shown, len(names) - len(shown))


def _numbers(summary: Summary) -> dict[str, int]:
    """Where a cell stands in the report, by what a finding calls it."""
    found: dict[str, int] = {}
    for number, cell in enumerate(summary.cells):
        for name in (cell.result.cell.id, f"{cell.result.run.folder.name}/{cell.result.cell.id}"):
            found.setdefault(name, number)
    return found
