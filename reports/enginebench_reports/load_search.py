"""Searches for a load: the knee of throughput, or the highest load that meets an SLO.

Loads double until one fails, or halve until one holds; then what lies between the highest that
held and the lowest that failed is halved (geometrically) until they are within `RESOLUTION`. A
load is tried in one cell, and where that leaves it open in up to `MOST_CELLS`, each with prompts
of its own:

- `slo`: the share of requests that met every bound, failed ones included, as a 95% interval. It
  holds if the interval lies above the target, fails if below. Requests of a cell are no independent
  sample, so the interval is the wider of Wilson's and Student's over tenths of each cell.
- `saturate`: the rate of completions / that of arrivals (see `kept_up`). Clearly above or below the
  target, one cell decides.

What is still open after the last cell is decided by the figure itself, and the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginebench.results import CellResult
from enginebench.search import Found, More
from enginebench.slo import Slo
from enginebench.types import Load, Search
from enginebench_reports.goodput import met
from enginebench_reports.measured import Measured
from enginebench_reports.stats import t_interval

if TYPE_CHECKING:
    from enginebench_reports.measured import Bools

__all__ = ["Share", "kept_up", "next_load", "share_met"]

MOST_CELLS = 3
RESOLUTION = 1.1
LOWEST_SHARE_OF_FIRST = 1 / 64
BATCHES = 10
CLEARLY = 0.03
CONFIDENCE = 0.95
Z = 1.96


@dataclass(frozen=True, slots=True)
class Share:
    """An estimate from 0 to 1 with its interval."""

    value: float
    low: float
    high: float

    def against(self, target: float) -> bool | None:
        """Whether it is above the target; None: the interval holds both."""
        return True if self.low >= target else False if self.high < target else None


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one load: `clear` False: decided by the figure alone, after the last cell."""

    load: Load
    holds: bool | None
    clear: bool


def next_load(search: Search, cells: Sequence[CellResult], spent_s: float) -> More | Found:
    """See `Searcher.next_step`; `cells` are those of this search."""
    assert search.first is not None, "a search for a load has a first cell"
    if not cells:
        return More(((search.first, search.first.load),))
    tried = list(_tried(search, cells))
    held, failed = _bracket(tried)
    following = _following(search, tried, held, failed)
    if following is None or spent_s >= search.budget_s:
        return _found(search, held, failed, settled=following is None)
    return More(((search.first, following),))


def _tried(search: Search, cells: Sequence[CellResult]) -> Iterator[Tried]:
    for load in dict.fromkeys(cell.cell.load for cell in cells):
        same = [cell for cell in cells if cell.cell.load == load]
        if any(cell.status.state == "failed" for cell in same):
            yield Tried(load, holds=False, clear=True)
            continue
        share = _share(search, same)
        holds = share.against(search.target)
        if holds is None and len(same) >= MOST_CELLS:
            yield Tried(load, share.value >= search.target, clear=False)
        else:
            yield Tried(load, holds, clear=True)


def _share(search: Search, same: Sequence[CellResult]) -> Share:
    if search.goal == "saturate":
        value = float(np.mean([kept_up(cell) for cell in same]))
        return Share(value, value - CLEARLY, value + CLEARLY)
    slo = same[0].run.slo
    assert slo is not None, "the plan was checked"
    return share_met([Measured.of(cell.records) for cell in same], slo)


def _bracket(tried: Sequence[Tried]) -> tuple[Tried | None, Tried | None]:
    """The highest load that held below the lowest that failed, and that one."""
    failed = min((t for t in tried if t.holds is False), key=_size, default=None)
    below = [t for t in tried if t.holds and (failed is None or _size(t) < _size(failed))]
    return max(below, key=_size, default=None), failed


def _size(tried: Tried) -> float:
    return _amount(tried.load)


def _amount(load: Load) -> float:
    return float(load.users or load.rate_rps or 0)


def _following(
    search: Search, tried: Sequence[Tried], held: Tried | None, failed: Tried | None
) -> Load | None:
    """The load to try next; None: there is nothing left to find out."""
    assert search.first is not None
    open_loads = [t.load for t in tried if t.holds is None]
    if open_loads:
        return open_loads[0]
    if held is None and failed is not None:
        lower = _load(search, _size(failed) / 2)
        least = max(_amount(search.first.load) * LOWEST_SHARE_OF_FIRST, 0)
        return lower if _amount(lower) >= least and lower != failed.load else None
    assert held is not None
    if failed is None:
        return _load(search, _size(held) * 2)
    middle = _load(search, math.sqrt(_size(held) * _size(failed)))
    narrow = _size(failed) / _size(held) <= RESOLUTION
    return None if narrow or middle in (held.load, failed.load) else middle


def _load(search: Search, amount: float) -> Load:
    """Rates have three digits, so that a folder's name tells them apart and they read well."""
    assert search.first is not None
    if search.first.load.users is not None:
        return Load(users=max(1, round(amount)))
    return Load(rate_rps=float(f"{amount:.3g}"))


def _found(search: Search, held: Tried | None, failed: Tried | None, *, settled: bool) -> Found:
    assert search.first is not None
    of = f"{search.first.spec.label} on {search.first.spec.model}"
    does = "keeps up with" if search.goal == "saturate" else f"meets the SLO ({search.target:.0%})"
    at = "" if search.goal == "saturate" else " at"
    if held is None:
        sentence = f"{of} {does}{at} no load that was tried"
    else:
        sentence = f"{of} {does}{at} {_spoken(held.load)}"
    if failed is not None:
        sentence += f", no more at {_spoken(failed.load)}"
    if any(tried is not None and not tried.clear for tried in (held, failed)):
        sentence += f" (not clear-cut: {MOST_CELLS} cells left the interval around the target)"
    if not settled:
        sentence += f"; the budget of {search.budget_s:g} s was spent before more was known"
    loads = (held.load if held else None, failed.load if failed else None)
    return Found(search.id, settled, sentence, *loads)


def _spoken(load: Load) -> str:
    if load.users is not None:
        return f"{load.users} user{'s' * (load.users != 1)}"
    return f"{load.rate_rps:g} requests/s"


def kept_up(cell: CellResult) -> float:
    """How fast requests were completed, as a share of how fast they came (1: as fast).

    The time for which they came / the time in which all were answered, less what one request
    takes, since the last answer always comes later than the last request: the shortest TTFT, which
    nobody waited before, and the median time from there to the end. What is left is the queue that
    had grown, being worked off.
    """
    measured = Measured.of(cell.records)
    if len(measured) < 2:
        return 0.0
    came_ns = int(measured.scheduled_ns.max() - measured.scheduled_ns.min())
    took_ns = int(measured.end_ns.max() - measured.scheduled_ns.min())
    first_ns = int((measured.first_ns - measured.scheduled_ns).min())
    rest_ns = float(np.median(measured.end_ns - measured.first_ns))
    answered = len(measured) / (len(measured) + measured.failed)
    return answered * min(1.0, came_ns / max(took_ns - first_ns - rest_ns, 1.0))


def share_met(cells: Sequence[Measured], slo: Slo) -> Share:
    """Which share of requests met every bound, over cells of one load."""
    good = [_good(measured, slo) for measured in cells]
    flat = np.concatenate(good)
    count, value = len(flat), float(flat.mean()) if len(flat) else 0.0
    if count == 0:
        return Share(0.0, 0.0, 1.0)
    low, high = _wilson(value, count)
    tenths = [part.mean() for each in good for part in np.array_split(each, BATCHES) if len(part)]
    if len(tenths) > 1:
        lower, upper = t_interval([float(part) for part in tenths], CONFIDENCE)
        low, high = min(low, lower), max(high, upper)
    return Share(value, low, high)


def _good(measured: Measured, slo: Slo) -> Bools:
    """In the order in which they were due; failed ones, whose time is not kept, at the end."""
    order = np.argsort(measured.scheduled_ns, kind="stable")
    good: Bools = np.concatenate([met(measured, slo)[order], np.zeros(measured.failed, bool)])
    return good


def _wilson(share: float, count: int) -> tuple[float, float]:
    spread = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    middle, scale = share + Z * Z / (2 * count), 1 + Z * Z / count
    return (middle - spread) / scale, (middle + spread) / scale
