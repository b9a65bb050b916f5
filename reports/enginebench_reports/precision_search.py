"""Repeats until the main metric is known well enough: `--precision 2%`.

Output tokens/s of each engine under each load, over repeats, never over requests of one cell: the
half width of Student's 95% interval of the mean, as a share of it. A round repeats every engine of
the loads at which one is not known well enough, so that engines stay paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from enginebench.results import CellResult
from enginebench.search import Found, More
from enginebench.types import Cell, Search
from enginebench_reports.metrics import serving_figures
from enginebench_reports.stats import t_interval

__all__ = ["MAIN_METRIC", "next_round", "relative_half_width"]

MAIN_METRIC = "output_tokens_per_s"
FEWEST_REPEATS = 3
CONFIDENCE = 0.95
Group = tuple[CellResult, ...]


def next_round(search: Search, cells: Sequence[CellResult], spent_s: float) -> More | Found:
    """See `Searcher.next_step`; `cells` are all that were planned, and their repeats."""
    groups = _groups(cells)
    widths = {key: _width(group) for key, group in groups.items()}
    wide = {key: width for key, width in widths.items() if width > search.target}
    if not wide or spent_s >= search.budget_s:
        return _found(search, groups, widths, settled=not wide)
    loads = {_drive(groups[key][0].cell) for key in wide}
    again = [group[0].cell for group in groups.values() if _drive(group[0].cell) in loads]
    repeats = max(len(group) for group in groups.values())
    turned = again if repeats % 2 == 0 else again[::-1]
    return More(tuple((cell, cell.load) for cell in turned))


def relative_half_width(values: Sequence[float]) -> float:
    """Of the 95% interval of the mean; infinite below three values."""
    if len(values) < FEWEST_REPEATS:
        return math.inf
    mean = math.fsum(values) / len(values)
    low, high = t_interval(values, CONFIDENCE)
    return float(high - low) / 2 / mean if mean > 0 else math.inf


def _groups(cells: Sequence[CellResult]) -> dict[str, Group]:
    """Repeats of the same, by engine and load."""
    groups: dict[str, Group] = {}
    for result in cells:
        key = f"{result.cell.spec} {_drive(result.cell)}"
        groups[key] = (*groups.get(key, ()), result)
    return groups


def _drive(cell: Cell) -> str:
    """What engines are compared under."""
    options = sorted(cell.workload.options.items())
    return f"{cell.spec.model} {cell.spec.hardware} {cell.workload.name} {options} {cell.load}"


def _width(group: Group) -> float:
    """An engine that keeps failing is known well enough: it has no figure."""
    if all(result.status.state == "failed" for result in group) and len(group) >= FEWEST_REPEATS:
        return 0.0
    figures = [serving_figures(result).get(MAIN_METRIC) for result in group]
    return relative_half_width([value for value in figures if value is not None])


def _found(
    search: Search, groups: Mapping[str, Group], widths: Mapping[str, float], *, settled: bool
) -> Found:
    worst = max(widths, key=lambda key: widths[key])
    cell, repeats = groups[worst][0].cell, max(len(group) for group in groups.values())
    known = f"{widths[worst]:.1%}" if math.isfinite(widths[worst]) else "no percentage at all"
    of = f"{cell.spec.label} at {cell.load}"
    if settled:
        sentence = (
            f"precision: output tokens/s are known to {search.target:.1%} of their mean or better "
            f"(95%) after {repeats} repeats; the least well known, of {of}, to {known}"
        )
    else:
        sentence = (
            f"precision: the budget of {search.budget_s:g} s was spent after {repeats} repeats; "
            f"output tokens/s of {of} are known to {known} of their mean (95%), not to "
            f"{search.target:.1%}"
        )
    return Found(search.id, settled, sentence)
