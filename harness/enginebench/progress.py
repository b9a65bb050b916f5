"""What the executor tells whoever watches a run: the terminal, a test, a notebook.

Listeners are called from the executor's own thread, so they must be quick; what they raise ends
the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from enginebench.drive import DriveProgress
from enginebench.results import CellStatus
from enginebench.types import Cell, Plan

__all__ = ["Listener", "Silent"]


class Listener(Protocol):
    """Told about a run as it goes, in this order; `progress` comes about twice a second."""

    def run_started(self, plan: Plan, folder: Path) -> None:
        """The Run folder exists; a resumed run starts here too, with the whole plan."""
        ...

    def cell_started(self, cell: Cell) -> None:
        """The cell's engine is about to be started."""
        ...

    def engine_ready(self, cell: Cell, ready_s: float) -> None:
        """The engine answered `ready_s` after its start (0: it was running already)."""
        ...

    def progress(self, cell: Cell, event: DriveProgress, elapsed_s: float) -> None:
        """Counts of the cell so far; `elapsed_s` counts from the start of the driver."""
        ...

    def cell_finished(self, cell: Cell, status: CellStatus) -> None:
        """The cell is sealed, as ok or failed."""
        ...

    def cells_added(self, plan: Plan) -> None:
        """A search has added cells to the end of the plan, which is now this."""
        ...

    def run_finished(self, folder: Path) -> None:
        """Every cell of the plan is sealed, every search has ended."""
        ...


class Silent:
    """A Listener that says nothing."""

    def run_started(self, plan: Plan, folder: Path) -> None: ...

    def cell_started(self, cell: Cell) -> None: ...

    def engine_ready(self, cell: Cell, ready_s: float) -> None: ...

    def progress(self, cell: Cell, event: DriveProgress, elapsed_s: float) -> None: ...

    def cell_finished(self, cell: Cell, status: CellStatus) -> None: ...

    def cells_added(self, plan: Plan) -> None: ...

    def run_finished(self, folder: Path) -> None: ...
