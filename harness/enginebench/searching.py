"""Carries out the searches of a plan: asks for cells, adds them to the Run, has them measured.

`plan.json` is rewritten, whole and atomically, before the cells that it gained are measured, and
the end of a search is written to `searches/`. Whatever moment a run is killed at, `bench run
--resume` measures what is planned and unsealed, then asks for more. Computes no statistics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from enginebench.new_cell import new_cell
from enginebench.results import CellResult
from enginebench.run_folder import RunFolder
from enginebench.search import Found, More, Searcher
from enginebench.store import load
from enginebench.types import Cell, Plan, Search

__all__ = ["pursue"]

Measure = Callable[[RunFolder, Sequence[Cell], bool], None]


def pursue(run: RunFolder, search: Search, searcher: Searcher, measure: Measure) -> RunFolder:
    """Have cells measured until `search` has ended; gives the Run with all of them.

    `measure` is told whether the cells may share a server, which those of one search for a load do.
    """
    began_s = time.monotonic()
    while True:
        spent_s = time.monotonic() - began_s
        step = searcher.next_step(search, _cells_of(run, search), spent_s)
        if isinstance(step, Found):
            run.write_found(step)
            return run
        cells = tuple(_made(run.plan, search, step))
        run = run.with_plan(replace(run.plan, cells=(*run.plan.cells, *cells)))
        measure(run, cells, search.first is not None)


def _cells_of(run: RunFolder, search: Search) -> list[CellResult]:
    added_by = {None, search.id} if search.first is None else {search.id}
    return [cell for cell in load(run.path) if cell.cell.search in added_by]


def _made(plan: Plan, search: Search, more: More) -> Iterator[Cell]:
    for place, (like, under) in enumerate(more.cells, len(plan.cells)):
        same = [c for c in plan.cells if _drives_like(c, like) and c.load == under]
        yield new_cell(
            place,
            like.spec,
            (like.workload, under),
            like.budget,
            len(same),
            plan_seed=plan.seed,
            search=search.id,
        )


def _drives_like(cell: Cell, other: Cell) -> bool:
    return cell.spec == other.spec and cell.workload == other.workload
