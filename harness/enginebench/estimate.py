"""How much longer a plan will take: from how long its finished cells took.

A cell is guessed by the finished cells of its engine and load, else of its engine, else of any;
before there are any, by the time that its budget allows (None when it allows none).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from enginebench.types import Cell, Plan

__all__ = ["Estimate", "as_clock"]


class Estimate:
    """Told about every cell that ends; knows no clock."""

    def __init__(self, plan: Plan) -> None:
        self._open = {cell.id: cell for cell in plan.cells}
        self._taken: list[tuple[Cell, float]] = []

    def add(self, cells: Sequence[Cell]) -> None:
        """The plan has grown; cells that are known already stay as they are."""
        for cell in cells:
            if all(cell.id != taken.id for taken, _ in self._taken):
                self._open.setdefault(cell.id, cell)

    def skip(self, cell: Cell) -> None:
        """The cell was measured in an earlier session."""
        self._open.pop(cell.id, None)

    def finished(self, cell: Cell, seconds: float) -> None:
        """The cell took `seconds`, start of its engine included."""
        self._open.pop(cell.id, None)
        self._taken.append((cell, seconds))

    def seconds_left(self, current: Cell | None, spent_s: float) -> float | None:
        """For all open cells, of which `current` has already taken `spent_s`."""
        total = 0.0
        for cell in self._open.values():
            guess = self._guess(cell)
            if guess is None:
                return None
            total += max(0.0, guess - spent_s) if cell is current else guess
        return total

    def _guess(self, cell: Cell) -> float | None:
        same_engine = [(c, s) for c, s in self._taken if c.spec.engine == cell.spec.engine]
        same_load = [(c, s) for c, s in same_engine if c.load == cell.load]
        for taken in (same_load, same_engine, self._taken):
            if taken:
                return _mean(taken)
        return cell.budget.duration_s


def as_clock(seconds: float | None) -> str:
    """`0:07`, `12:30`, `1:02:03`; `?` for None."""
    if seconds is None:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _mean(taken: Sequence[tuple[Cell, float]]) -> float:
    return fmean(seconds for _, seconds in taken)
