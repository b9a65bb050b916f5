"""The report's figures, each a function of results and optional axes that returns the axes.

    ax = plots.throughput(results)               # ResultSet, its frame, or one Group
    ax.figure.savefig("throughput.svg")

    figure, (left, right) = plt.subplots(1, 2)   # or into axes of your own
    plots.throughput(results, ax=left)
    plots.latency_against_throughput(results, ax=right)

One line per engine; where results hold several models or machines, one line for each of their
engines. `look` keeps colours the same over several figures. Nothing here writes a file (see
`figures`), and pyplot is never imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginebench.errors import UsageError
from enginebench.results import ResultSet
from enginebench_reports.groups import Group, Point, curve, groups, load_of
from enginebench_reports.labels import Ends, name_lines, name_points, nothing_to_draw
from enginebench_reports.look import FIGURE_INCHES, FONT_PT, INK, PAPER, Mark, axes, marks, tidy
from enginebench_reports.measured import Floats, Measured
from enginebench_reports.quantities import quantity, tick

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["latency_against_throughput", "memory", "throughput", "ttft_distribution"]

Look = Mapping[str, Mark]
THROUGHPUT = "output_tokens_per_s"
LATENCIES = {"tpot_s_p50": "TPOT", "ttft_s_p50": "TTFT", "itl_s_p50": "ITL", "e2e_s_p50": "latency"}
MOST_CURVE_POINTS = 400


@dataclass(frozen=True, slots=True)
class Series:
    """One line: an engine within a group, and what it is called where groups are mixed."""

    name: str
    group: Group
    label: str


def throughput(
    data: ResultSet | pd.DataFrame | Group, *, ax: Axes | None = None, look: Look | None = None
) -> Axes:
    """Output tokens/s against load; the band is the range over repeats."""
    ax = ax or axes()
    series = _series(data)
    look = look or marks(each.name for each in series)
    tidy(ax, title="Output tokens per second", x=_load_title(series))
    ends: Ends = {}
    for each in series:
        points = curve(each.group, each.label, THROUGHPUT)
        if points:
            _line(ax, points, look[each.name])
            ends[each.name] = (points[-1].load, points[-1].median)
    if not ends:
        return nothing_to_draw(ax)
    _load_axis(ax, {load for each in series for load in each.group.loads})
    ax.set_ylim(bottom=0)
    _thousands(ax, "y")
    return name_lines(ax, ends, look)


def latency_against_throughput(
    data: ResultSet | pd.DataFrame | Group,
    metric: str = "tpot_s_p50",
    *,
    ax: Axes | None = None,
    look: Look | None = None,
) -> Axes:
    """A latency in ms against output tokens/s, one point per load: right and down is better."""
    ax = ax or axes()
    series = _series(data)
    look = look or marks(each.name for each in series)
    name = LATENCIES.get(metric, metric)
    tidy(ax, title=f"Median {name} against throughput", x="output tokens/s", y=f"{name}, ms")
    paths = {each.name: _steps(each, metric) for each in series}
    for label, steps in paths.items():
        _path(ax, steps, look[label])
    ends = {label: max(step[1:] for step in steps) for label, steps in paths.items() if steps}
    if not ends:
        return nothing_to_draw(ax)
    ax.set_xlim(0, ax.get_xlim()[1])
    ax.set_ylim(0, ax.get_ylim()[1] * 1.08)
    _thousands(ax, "x")
    _thousands(ax, "y")
    name_points(ax, [(f"{load:g}", x, y) for steps in paths.values() for load, x, y in steps])
    return name_lines(ax, ends, look)


def ttft_distribution(
    results: ResultSet,
    load: float | None = None,
    *,
    ax: Axes | None = None,
    look: Look | None = None,
) -> Axes:
    """Share of requests whose first token came within a time, at one load (None: the highest)."""
    ax = ax or axes()
    look = look or marks(cell.cell.spec.label for cell in results)
    chosen = load if load is not None else max(map(load_of, results), default=None)
    samples = _ttft_samples(results, chosen)
    closed = any(cell.cell.load.users is not None for cell in results)
    where = "" if chosen is None else f" at {chosen:g} {'concurrent' if closed else 'requests/s'}"
    tidy(ax, title=f"Time to first token{where}", x="TTFT, ms", y="requests, %")
    if not samples:
        return nothing_to_draw(ax)
    ends: Ends = {}
    for name, values in samples.items():
        times, shares = _distribution(values * 1e3)
        ax.plot(times, shares, color=look[name].colour, linestyle=look[name].line, linewidth=2)
        ends[name] = (float(times[-1]), 100.0)
    ax.set_xscale("log")
    _plain_log_ticks(ax)
    ax.set_ylim(0, 102)
    return name_lines(ax, ends, look, beside=False)


def memory(
    data: ResultSet | pd.DataFrame | Group, *, ax: Axes | None = None, look: Look | None = None
) -> Axes:
    """Peak memory of each engine over its loads: resident, and GPU memory where there is any."""
    series = _series(data)
    look = look or marks(each.name for each in series)
    bars = [bar for each in series for bar in _memory_bars(each)]
    ax = ax or axes((FIGURE_INCHES[0], max(1.6, 0.8 + 0.45 * len(bars))))
    tidy(ax, title="Peak memory", x="")
    if not bars:
        return nothing_to_draw(ax)
    for row, (name, _, peak) in enumerate(bars):
        ax.barh(row, peak / 1e9, height=0.62, color=look[name].colour)
        ax.annotate(
            quantity(peak, "bytes"),
            (peak / 1e9, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_PT,
            color=INK,
        )
    several = len({kind for _, kind, _ in bars}) > 1
    names = [f"{name}\n{kind}" if several else name for name, kind, _ in bars]
    ax.set_yticks(range(len(bars)), names, fontsize=FONT_PT, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["bottom"].set_visible(False)
    ax.set_xticks([])
    ax.set_ylim(max(len(bars), 2) - 0.4, -0.6)  # first on top
    ax.set_xlim(0, max(peak for _, _, peak in bars) / 1e9 * 1.22)
    return ax


def _series(data: ResultSet | pd.DataFrame | Group) -> Sequence[Series]:
    """Every engine of every group; names carry the group's title only where there are several."""
    if isinstance(data, Group):
        found: Sequence[Group] = [data]
    else:
        found = groups(data.to_pandas() if isinstance(data, ResultSet) else data)
    if len({group.loop for group in found}) > 1:
        raise UsageError(
            "closed-loop and open-loop cells cannot share a figure; select one kind, for example "
            "frame[frame.users.notna()]"
        )
    return [
        Series(label if len(found) == 1 else f"{label}, {group.title}", group, label)
        for group in found
        for label in group.labels
    ]


def _load_title(series: Sequence[Series]) -> str:
    return series[0].group.load_title if series else ""


def _line(ax: Axes, points: Sequence[Point], mark: Mark) -> None:
    loads = [point.load for point in points]
    if any(point.repeats > 1 for point in points):
        low, high = [point.low for point in points], [point.high for point in points]
        ax.fill_between(loads, low, high, color=mark.colour, alpha=0.16, linewidth=0)
    medians = [point.median for point in points]
    ax.plot(loads, medians, color=mark.colour, linestyle=mark.line, linewidth=2)
    _dots(ax, loads, medians, mark)


def _path(ax: Axes, steps: Sequence[tuple[float, float, float]], mark: Mark) -> None:
    """Points (load, throughput, latency) joined by rising load."""
    xs, ys = [step[1] for step in steps], [step[2] for step in steps]
    ax.plot(xs, ys, color=mark.colour, linestyle=mark.line, linewidth=2)
    _dots(ax, xs, ys, mark)


def _dots(ax: Axes, xs: Sequence[float], ys: Sequence[float], mark: Mark) -> None:
    ax.plot(
        xs,
        ys,
        linestyle="",
        marker=mark.marker,
        markersize=7,
        color=mark.colour,
        markeredgecolor=PAPER,
        markeredgewidth=1.2,
        clip_on=False,
        zorder=3,
    )


def _steps(series: Series, metric: str) -> Sequence[tuple[float, float, float]]:
    rates = {point.load: point.median for point in curve(series.group, series.label, THROUGHPUT)}
    return [
        (point.load, rates[point.load], point.median * 1e3)
        for point in curve(series.group, series.label, metric)
        if point.load in rates
    ]


def _load_axis(ax: Axes, loads: Iterable[float]) -> None:
    """Doublings at equal distance, ticks at what was measured."""
    ticks = sorted(loads)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{load:g}" for load in ticks])
    if len(ticks) == 1:
        ax.set_xlim(ticks[0] / 2, ticks[0] * 2)
    ax.minorticks_off()


def _thousands(ax: Axes, axis: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    which = ax.xaxis if axis == "x" else ax.yaxis
    which.set_major_locator(MaxNLocator(5))
    which.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def _plain_log_ticks(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(10, subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _ttft_samples(results: ResultSet, load: float | None) -> Mapping[str, Floats]:
    """TTFT in seconds of all requests of each engine at a load, all repeats together."""
    found: dict[str, list[Floats]] = {}
    for result in results:
        if load_of(result) != load or result.status.state != "ok":
            continue
        measured = Measured.of(result.records)
        waits: Floats = (measured.first_ns - measured.scheduled_ns)[measured.answered] * 1e-9
        if len(waits):
            found.setdefault(result.cell.spec.label, []).append(waits)
    return {name: np.concatenate(parts) for name, parts in sorted(found.items())}


def _distribution(values: Floats) -> tuple[Floats, Floats]:
    """The empirical distribution as steps (value, percent at or below), thinned to be drawable."""
    ordered = np.sort(values)
    ranks = np.unique(np.linspace(0, len(ordered) - 1, MOST_CURVE_POINTS).astype(int))
    times, shares = ordered[ranks], (ranks + 1) / len(ordered) * 100
    return np.repeat(times, 2), np.concatenate([[0.0], np.repeat(shares, 2)[:-1]])


def _memory_bars(series: Series) -> Sequence[tuple[str, str, float]]:
    bars = []
    for metric, kind in (("peak_rss_bytes", "resident"), ("peak_gpu_memory_bytes", "GPU")):
        points = curve(series.group, series.label, metric)
        if points and (peak := max(point.high for point in points)) > 0:
            bars.append((series.name, kind, peak))
    return bars
