"""Figures over load: throughput, latency, goodput, energy; and latency against throughput.

A band is the range over repeats. Latencies are medians of requests; without repeats their band
reaches up to the 90th percentile of requests, where the sample supports one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enginebench.results import ResultSet
from enginebench_reports.crossover import Crossover, crossovers
from enginebench_reports.groups import Group, Point
from enginebench_reports.hover import belongs, tells
from enginebench_reports.labels import Ends, name_lines, name_points, nothing_to_draw
from enginebench_reports.look import FONT_PT, GRID, INK, MUTED, axes, marks, tidy
from enginebench_reports.quantities import amount, quantity
from enginebench_reports.series import Look, Series, series_of
from enginebench_reports.strokes import band, line, load_axis, points, thousands

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["energy", "goodput", "latency", "latency_against_throughput", "throughput"]

THROUGHPUT, GOODPUT, ENERGY = "output_tokens_per_s", "goodput_rps", "energy_j_per_token"
LATENCIES = {"tpot_s_p50": "TPOT", "ttft_s_p50": "TTFT", "itl_s_p50": "ITL", "e2e_s_p50": "latency"}
MOST_WITH_LOADS = 4
"""Lines; loads written at the points of more of them would only cover one another."""


@dataclass(frozen=True, slots=True)
class Curves:
    """A figure of one metric over load: `scale` turns the metric into the unit of the axis."""

    metric: str
    title: str
    y: str = ""
    scale: float = 1.0
    text: Callable[[float], str] = amount
    up_to: str = ""


def throughput(
    data: ResultSet | pd.DataFrame | Group, *, ax: Axes | None = None, look: Look | None = None
) -> Axes:
    """Output tokens/s against load, and where the two best engines change places."""
    wanted = Curves(THROUGHPUT, "Output tokens per second", text=lambda v: f"{amount(v)} tokens/s")
    drawn = _over_load(wanted, data, ax, look)
    series = series_of(data)
    if len({id(each.group) for each in series}) == 1:
        for change in _last_change(series):
            _mark_crossover(drawn, change)
    return drawn


def latency(
    data: ResultSet | pd.DataFrame | Group,
    metric: str = "tpot_s_p50",
    *,
    ax: Axes | None = None,
    look: Look | None = None,
) -> Axes:
    """A latency in ms against load."""
    name = LATENCIES.get(metric, metric)
    up_to = metric.replace("_p50", "_p90")
    title = f"Median {name} against load"
    wanted = Curves(metric, title, f"{name}, ms", 1e3, lambda v: quantity(v / 1e3, "s"), up_to)
    return _over_load(wanted, data, ax, look)


def goodput(
    data: ResultSet | pd.DataFrame | Group, *, ax: Axes | None = None, look: Look | None = None
) -> Axes:
    """Requests per second that met the SLO, against load."""
    wanted = Curves(GOODPUT, "Goodput", "requests/s within the SLO", text=_per_second)
    return _over_load(wanted, data, ax, look)


def energy(
    data: ResultSet | pd.DataFrame | Group, *, ax: Axes | None = None, look: Look | None = None
) -> Axes:
    """GPU energy of a token, against load."""
    wanted = Curves(ENERGY, "GPU energy per output token", "J/token", text=_joules)
    return _over_load(wanted, data, ax, look)


def latency_against_throughput(
    data: ResultSet | pd.DataFrame | Group,
    metric: str = "tpot_s_p50",
    *,
    ax: Axes | None = None,
    look: Look | None = None,
) -> Axes:
    """A latency in ms against output tokens/s, one point per load: right and down is better.

    The grey line is the Pareto front: for each of its points, none is better in both.
    """
    ax = ax or axes()
    series = series_of(data)
    look = look or marks(each.name for each in series)
    name = LATENCIES.get(metric, metric)
    tidy(ax, title=f"Median {name} against throughput", x="output tokens/s", y=f"{name}, ms")
    paths = {each.name: _steps(each, metric) for each in series}
    _front(ax, [step[1:] for steps in paths.values() for step in steps], len(paths))
    for each in series:
        steps = paths[each.name]
        xs, ys = [step[1] for step in steps], [step[2] for step in steps]
        line(ax, xs, ys, each.name, look[each.name])
        said = [
            f"{each.name} at {each.group.load_text(load)}: {amount(x)} tokens/s, {name} "
            f"{quantity(y / 1e3, 's')}"
            for load, x, y in steps
        ]
        points(ax, zip(xs, ys, said, strict=True), each.name, look[each.name])
    ends = {label: max(step[1:] for step in steps) for label, steps in paths.items() if steps}
    if not ends:
        return nothing_to_draw(ax)
    ax.set_xlim(0, ax.get_xlim()[1])
    ax.set_ylim(0, ax.get_ylim()[1] * 1.08)
    thousands(ax, "x")
    thousands(ax, "y")
    if len(ends) <= MOST_WITH_LOADS:
        name_points(ax, [(f"{load:g}", x, y) for steps in paths.values() for load, x, y in steps])
    return name_lines(ax, ends, look)


def _over_load(
    wanted: Curves,
    data: ResultSet | pd.DataFrame | Group,
    ax: Axes | None,
    look: Look | None,
) -> Axes:
    ax = ax or axes()
    series = series_of(data)
    look = look or marks(each.name for each in series)
    tidy(ax, title=wanted.title, x=series[0].group.load_title if series else "", y=wanted.y)
    ends: Ends = {}
    for each in series:
        found = each.curve(wanted.metric)
        if found:
            _curve(ax, each, found, wanted, look)
            ends[each.name] = (found[-1].load, found[-1].median * wanted.scale)
    if not ends:
        return nothing_to_draw(ax)
    load_axis(ax, {load for each in series for load in each.group.loads})
    ax.set_ylim(bottom=0)
    thousands(ax, "y")
    return name_lines(ax, ends, look)


def _curve(ax: Axes, each: Series, found: Sequence[Point], wanted: Curves, look: Look) -> None:
    mark, scale = look[each.name], wanted.scale
    loads = [point.load for point in found]
    low, high = [point.low * scale for point in found], [point.high * scale for point in found]
    if all(point.repeats == 1 for point in found) and wanted.up_to:
        tails = {point.load: point.median * scale for point in each.curve(wanted.up_to)}
        high = [tails.get(load, value) for load, value in zip(loads, high, strict=True)]
    if low != high:
        band(ax, loads, (low, high), each.name, mark)
    medians = [point.median * scale for point in found]
    line(ax, loads, medians, each.name, mark)
    said = [each.tip(point, wanted.text(point.median * scale)) for point in found]
    points(ax, zip(loads, medians, said, strict=True), each.name, mark)


def _per_second(value: float) -> str:
    return f"{amount(value)} good requests/s"


def _joules(value: float) -> str:
    return f"{amount(value)} J/token"


def _steps(series: Series, metric: str) -> Sequence[tuple[float, float, float]]:
    """(load, tokens/s, latency in ms) where there are both, by rising load."""
    rates = {point.load: point.median for point in series.curve(THROUGHPUT)}
    return [
        (point.load, rates[point.load], point.median * 1e3)
        for point in series.curve(metric)
        if point.load in rates
    ]


def _front(ax: Axes, places: Sequence[tuple[float, float]], engines: int) -> None:
    """Joins the points that no other beats in both, where engines compete."""
    if engines < 2:
        return
    best = sorted(
        (x, y)
        for x, y in places
        if not any(a >= x and b <= y and (a, b) != (x, y) for a, b in places)
    )
    if len(best) > 1:
        (drawn,) = ax.plot(*zip(*best, strict=True), color=GRID, linewidth=7, zorder=0.5)
        drawn.set_solid_capstyle("round")
        belongs(drawn, "")


def _last_change(series: Sequence[Series]) -> Sequence[Crossover]:
    """The change of the lead between the two engines that are best at the highest load."""
    group = series[0].group
    last = {each.label: found[-1] for each in series if (found := each.curve(THROUGHPUT))}
    top = sorted(last, key=lambda label: (last[label].load, last[label].median), reverse=True)[:2]
    return crossovers(group, top[0], top[1], THROUGHPUT)[-1:] if len(top) == 2 else []


def _mark_crossover(ax: Axes, change: Crossover) -> None:
    ax.axvspan(change.low, change.high, color=MUTED, alpha=0.1, linewidth=0, zorder=0)
    drawn = ax.axvline(change.at, color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)), zorder=1)
    tells(drawn, "", f"{change.overtaker} overtakes {change.overtaken} at {change.text}")
    ax.annotate(
        change.text.split()[0],
        (change.at, 1),
        (4, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=FONT_PT - 1,
        color=INK,
    )
