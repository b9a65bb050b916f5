"""Runs that add cells as they go: what is sought, who says what comes next, what was found.

The plan holds a `Search`; the executor asks the plugin's Searcher (hook `enginebench_searcher`) for
the next cells, measures them, and asks again, until it gets a `Found`. The Searcher decides from
sealed cells alone, so a killed run goes on where it stopped. The harness computes no statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from enginebench.types import Cell, Load, Search

if TYPE_CHECKING:
    from enginebench.results import CellResult

__all__ = ["Found", "More", "Searcher"]


@dataclass(frozen=True, slots=True)
class More:
    """Cells to measure next: each like one that there is (or that the search begins with), under a
    load.
    """

    cells: tuple[tuple[Cell, Load], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """How a search ended. `settled` False: its budget was spent first.

    Of a load: the highest that held and the lowest that did not, where there were such.
    """

    search: str
    settled: bool
    sentence: str
    held: Load | None = None
    failed: Load | None = None


@runtime_checkable
class Searcher(Protocol):
    """Decides how searches go on."""

    def next_step(
        self, search: Search, cells: Sequence[CellResult], spent_s: float
    ) -> More | Found:
        """What to do after `cells`, all sealed, in the order in which they were measured.

        Of a load: those that this search has added so far. Of precision: all that were planned, and
        their repeats. `spent_s` is how long the search has been going on in this session.
        """
        ...
