"""How waits are distributed at one load: the share of first tokens, or of tokens, within a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from enginebench.results import ResultSet
from enginebench_reports.groups import load_of, most_shared_load
from enginebench_reports.hover import belongs
from enginebench_reports.labels import Ends, name_lines, nothing_to_draw
from enginebench_reports.latency import token_gaps
from enginebench_reports.look import axes, marks, tidy
from enginebench_reports.measured import Floats, Measured
from enginebench_reports.percentiles import PERCENTS
from enginebench_reports.quantities import quantity
from enginebench_reports.series import Look
from enginebench_reports.strokes import plain_log_ticks, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["itl_distribution", "ttft_distribution"]

MOST_CURVE_POINTS = 240
SHOWN_FROM = 0.05
"""The share of waits that may lie left of the axis: the shortest say little and take its room."""
LEAST_S = 1e-6
"""The axis is logarithmic; chunks that were read together lie 0 apart."""
Waits = Callable[[Measured], Floats]


def ttft_distribution(
    results: ResultSet,
    load: float | None = None,
    *,
    ax: Axes | None = None,
    look: Look | None = None,
) -> Axes:
    """Share of requests whose first token came within a time, at one load.

    None: the highest of those at which most engines were measured.
    """
    return _distribution(
        results, load, ("Time to first token", "TTFT", "requests"), ax, look, _ttft
    )


def itl_distribution(
    results: ResultSet,
    load: float | None = None,
    *,
    ax: Axes | None = None,
    look: Look | None = None,
) -> Axes:
    """Share of tokens that came within a time of the one before, at one load."""
    names = ("Inter-token latency", "ITL", "tokens")
    return _distribution(results, load, names, ax, look, token_gaps)


def _distribution(
    results: ResultSet,
    load: float | None,
    names: tuple[str, str, str],
    ax: Axes | None,
    look: Look | None,
    waits: Waits,
) -> Axes:
    title, short, what = names
    ax = ax or axes()
    look = look or marks(cell.cell.spec.label for cell in results)
    chosen = load if load is not None else most_shared_load(results)
    closed = any(cell.cell.load.users is not None for cell in results)
    where = "" if chosen is None else f" at {chosen:g} {'concurrent' if closed else 'requests/s'}"
    tidy(ax, title=f"{title}{where}", x=f"{short}, ms", y=f"{what}, %")
    samples = _samples(results, chosen, waits)
    if not samples:
        return nothing_to_draw(ax)
    ends: Ends = {}
    for name, values in samples.items():
        ordered = np.sort(values)
        times, shares = _steps(ordered * 1e3)
        mark = look[name]
        (drawn,) = ax.plot(times, shares, color=mark.colour, linestyle=mark.line, linewidth=2)
        belongs(drawn, name)
        said = [
            (at * 1e3, percent, f"{name}: {percent}% of {what} within {quantity(at, 's')}")
            for percent in PERCENTS
            for at in [float(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)])]
        ]
        points(ax, said, name, mark)
        ends[name] = (float(times[-1]), 100.0)
    ax.set_xscale("log")
    ax.set_xlim(left=0.8e3 * min(float(np.quantile(each, SHOWN_FROM)) for each in samples.values()))
    plain_log_ticks(ax)
    ax.set_ylim(0, 102)
    return name_lines(ax, ends, look, beside=False)


def _samples(results: ResultSet, load: float | None, waits: Waits) -> Mapping[str, Floats]:
    """Waits in seconds of each engine at a load, all repeats together."""
    found: dict[str, list[Floats]] = {}
    for result in results:
        if load_of(result) != load or result.status.state != "ok":
            continue
        values = waits(Measured.of(result.records))
        if len(values):
            floored = np.maximum(values, LEAST_S)
            found.setdefault(result.cell.spec.label, []).append(floored)
    return {name: np.concatenate(parts) for name, parts in sorted(found.items())}


def _ttft(measured: Measured) -> Floats:
    waits: Floats = (measured.first_ns - measured.scheduled_ns)[measured.answered] * 1e-9
    return waits


def _steps(ordered: Floats) -> tuple[Floats, Floats]:
    """The empirical distribution as steps (value, percent at or below), thinned to be drawable."""
    ranks = np.unique(np.linspace(0, len(ordered) - 1, MOST_CURVE_POINTS).astype(int))
    times, shares = ordered[ranks], (ranks + 1) / len(ordered) * 100
    return np.repeat(times, 2), np.concatenate([[0.0], np.repeat(shares, 2)[:-1]])
