"""What a running plan looks like: a live picture on a terminal, a few plain lines elsewhere.

Both are Listeners that only follow what the executor tells; `RunView` keeps the facts that both
show, so that neither computes anything itself. The table at the end is `result_table`'s.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from enginebench.drive import DriveProgress
from enginebench.estimate import Estimate, as_clock
from enginebench.progress import Listener
from enginebench.results import CellStatus
from enginebench.types import Cell, Plan

__all__ = ["Display", "LiveDisplay", "PlainDisplay", "RunView", "display_for"]

RATE_WINDOW_S = 10.0
LINE_EVERY_S = 10.0
SHOWN_CELLS = 12
Clock = Callable[[], float]


class Display(Listener, Protocol):
    """A Listener that may hold the terminal."""

    def close(self) -> None:
        """Give the terminal back; may be called again, also when the run ended early."""
        ...


def display_for(console: Console) -> Display:
    """The live display if `console` is a terminal, else plain lines."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class RunView:
    """The state of a run, as far as it can be shown."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.plan: Plan | None = None
        self.cell: Cell | None = None
        self.phase = ""
        self.event: DriveProgress | None = None
        self.done: list[tuple[Cell, CellStatus, str]] = []
        self._started = self._cell_started = clock()
        self._recent: deque[tuple[float, int]] = deque()
        self._estimate: Estimate | None = None

    def run_started(self, plan: Plan) -> None:
        self.plan, self._estimate = plan, Estimate(plan)
        self._started = self._clock()

    def cells_added(self, plan: Plan) -> None:
        known, self.plan = self.total, plan
        if self._estimate is not None:
            self._estimate.add(plan.cells[known:])

    def cell_started(self, cell: Cell) -> None:
        self._skip_before(cell)
        self.cell, self.event, self.phase = cell, None, "starting"
        self._cell_started = self._clock()
        self._recent.clear()

    def progress(self, event: DriveProgress, elapsed_s: float) -> None:
        self.event, self.phase = event, event.phase
        self._recent.append((elapsed_s, event.tokens))
        while elapsed_s - self._recent[0][0] > RATE_WINDOW_S:
            self._recent.popleft()

    def cell_finished(self, cell: Cell, status: CellStatus) -> None:
        took_s = self._clock() - self._cell_started
        rate = f", {self.tokens_per_s():,.0f} tokens/s at the end" if self.event else ""
        self.done.append((cell, status, f"{as_clock(took_s)}{rate}"))
        if self._estimate is not None:
            self._estimate.finished(cell, took_s)
        self.cell, self.phase = None, ""

    def tokens_per_s(self) -> float:
        """Over the last few seconds; 0 until two events came."""
        if len(self._recent) < 2:
            return 0.0
        (since, before), (until, after) = self._recent[0], self._recent[-1]
        return (after - before) / (until - since) if until > since else 0.0

    def elapsed_s(self) -> float:
        return self._clock() - self._started

    def left_s(self) -> float | None:
        spent_s = self._clock() - self._cell_started
        return self._estimate.seconds_left(self.cell, spent_s) if self._estimate else None

    @property
    def total(self) -> int:
        return len(self.plan.cells) if self.plan else 0

    def name(self, cell: Cell) -> str:
        """`[3/12] paged block_size=16 · smollm2-135m · cpu:2 · c16`."""
        model = PurePath(cell.spec.model).name  # of a path or hub id, the end says it
        parts = [cell.spec.label, model, str(cell.spec.hardware), str(cell.load)]
        repeated = self.plan is not None and any(other.repeat for other in self.plan.cells)
        if repeated:
            parts.append(f"repeat {cell.repeat + 1}")
        return f"[{cell.index + 1}/{self.total}] {' · '.join(parts)}"

    def counts(self) -> str:
        """`measure: 12 requests, 345 tokens/s, 0 errors`."""
        if self.event is None:
            return f"{self.phase}, {as_clock(self._clock() - self._cell_started)}"
        return (
            f"{self.phase}: {self.event.requests} requests, "
            f"{self.tokens_per_s():,.0f} tokens/s, {self.event.errors} errors"
        )

    def times(self) -> str:
        """`1:20 elapsed, about 2:10 left`."""
        return f"{as_clock(self.elapsed_s())} elapsed, about {as_clock(self.left_s())} left"

    def _skip_before(self, cell: Cell) -> None:
        """A resumed run leaves cells out: those before this one are not to be estimated."""
        if self.plan is None or self._estimate is None:
            return
        for earlier in self.plan.cells[: cell.index]:
            self._estimate.skip(earlier)


def _outcome(status: CellStatus) -> str:
    """`ok`, or `failed: ` and the first line of why."""
    reason = (status.error or "").splitlines()
    return f"{status.state}: {reason[0]}" if status.state == "failed" and reason else status.state


class PlainDisplay:
    """One line when a cell starts to be measured, every ten seconds, and when it ends."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._view = RunView(clock)
        self._last_line = clock()

    def run_started(self, plan: Plan, folder: Path) -> None:
        self._view.run_started(plan)
        self._line(f"{len(plan.cells)} cells into {folder}")

    def cells_added(self, plan: Plan) -> None:
        self._view.cells_added(plan)

    def cell_started(self, cell: Cell) -> None:
        self._view.cell_started(cell)

    def engine_ready(self, cell: Cell, ready_s: float) -> None:
        self._line(f"{self._view.name(cell)}: ready after {ready_s:.1f} s")

    def progress(self, cell: Cell, event: DriveProgress, elapsed_s: float) -> None:
        self._view.progress(event, elapsed_s)
        if self._clock() - self._last_line >= LINE_EVERY_S:
            self._line(f"{self._view.name(cell)}: {self._view.counts()}; {self._view.times()}")

    def cell_finished(self, cell: Cell, status: CellStatus) -> None:
        self._view.cell_finished(cell, status)
        took = self._view.done[-1][2]
        self._line(f"{self._view.name(cell)}: {_outcome(status)} ({took}); {self._view.times()}")

    def run_finished(self, folder: Path) -> None:
        self._line(f"all cells done after {as_clock(self._view.elapsed_s())}")

    def close(self) -> None:
        """Nothing is held."""

    def _line(self, text: str) -> None:
        self._last_line = self._clock()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """The last cells, the current one, and a bar over the whole plan, redrawn in place."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._view = RunView(clock)
        self._live = Live(
            console=console, get_renderable=self.picture, refresh_per_second=4, transient=True
        )

    def run_started(self, plan: Plan, folder: Path) -> None:
        self._view.run_started(plan)
        self._live.console.print(
            f"{len(plan.cells)} cells into {folder}", markup=False, highlight=False
        )
        self._live.start()

    def cells_added(self, plan: Plan) -> None:
        self._view.cells_added(plan)

    def cell_started(self, cell: Cell) -> None:
        self._view.cell_started(cell)

    def engine_ready(self, cell: Cell, ready_s: float) -> None:
        self._view.phase = f"ready after {ready_s:.1f} s, warming up"

    def progress(self, cell: Cell, event: DriveProgress, elapsed_s: float) -> None:
        self._view.progress(event, elapsed_s)

    def cell_finished(self, cell: Cell, status: CellStatus) -> None:
        self._view.cell_finished(cell, status)

    def run_finished(self, folder: Path) -> None:
        self._live.stop()

    def close(self) -> None:
        """See `Display.close`."""
        self._live.stop()

    def picture(self) -> RenderableType:
        """What stands on the terminal now."""
        view = self._view
        lines: list[RenderableType] = [
            _finished_line(view, *done) for done in view.done[-SHOWN_CELLS:]
        ]
        if view.cell is not None:
            lines.append(Text(f"▸ {view.name(view.cell)}  {view.counts()}", style="bold"))
        bar = Table.grid(padding=(0, 2))
        done = view.cell.index if view.cell is not None else len(view.done)
        bar.add_row(
            ProgressBar(total=max(view.total, 1), completed=done, width=30),
            Text(f"{done}/{view.total} cells"),
            Text(view.times()),
        )
        return Group(*lines, bar)


def _finished_line(view: RunView, cell: Cell, status: CellStatus, took: str) -> Text:
    ok = status.state == "ok"
    line = Text("✓ " if ok else "✗ ", style="green" if ok else "red")
    line.append(f"{view.name(cell)}  {_outcome(status)} ({took})", style="default")
    return line
