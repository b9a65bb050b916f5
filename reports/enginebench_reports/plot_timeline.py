"""One cell, request by request: waiting, streaming, every token; what the server held, below.

Shown is a stretch of the steady state that is short enough to be read. The lanes below come from
the records (requests waiting for their first token) and from telemetry, where it has such columns;
each lane is scaled to its own largest value, which is written beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginebench.results import CellResult
from enginebench_reports.hover import belongs, tells
from enginebench_reports.labels import nothing_to_draw
from enginebench_reports.look import (
    FIGURE_INCHES,
    FONT_PT,
    INK,
    MUTED,
    PAPER,
    Mark,
    axes,
    marks,
    tidy,
)
from enginebench_reports.measured import Floats, Measured, phase
from enginebench_reports.quantities import quantity, tick
from enginebench_reports.resources import series

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

__all__ = ["timeline"]

MOST_REQUESTS = 40
LEAST_APART = 1 / 330
"""Of the width; ticks nearer than that would hide their bar."""
NS = 1e9
LANE_ROWS = 3.2
LANE_GAP = 1.2
LANES = {
    "server_kv_used_share": ("KV cache in use", "share"),
    "server_waiting": ("queued in the server", ""),
    "gpu_memory_bytes": ("GPU memory", "bytes"),
    "rss_bytes": ("resident memory", "bytes"),
}
"""Telemetry columns, what a lane of them is called, and their unit."""
MOST_LANES = 3


@dataclass(frozen=True, slots=True)
class Bar:
    """A request; seconds from the start of what is shown. Without text, `first_s` is `end_s`."""

    start_s: float
    first_s: float
    end_s: float
    tokens_s: Sequence[float]
    error: str | None

    @property
    def text(self) -> str:
        if self.error is not None:
            return f"failed after {quantity(self.end_s - self.start_s, 's')}: {self.error[:80]}"
        return (
            f"first token after {quantity(self.first_s - self.start_s, 's')}, all "
            f"{len(self.tokens_s)} chunks after {quantity(self.end_s - self.start_s, 's')}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """A step curve: values from `times_s` on."""

    title: str
    unit: str
    times_s: Floats
    values: Floats


def timeline(cell: CellResult, *, ax: Axes | None = None, mark: Mark | None = None) -> Axes:
    """Requests as bars (pale: waiting for the first token), tokens as ticks, load below."""
    label = cell.cell.spec.label
    mark = mark or marks([label])[label]
    start_ns, records = _stretch(cell)
    bars = list(_bars(records, start_ns))
    ax = ax or axes((2 * FIGURE_INCHES[0], 1.6 + 0.085 * max(len(bars), 12)))
    load = cell.cell.load
    at = f"{load.users} concurrent" if load.users is not None else f"{load.rate_rps:g} requests/s"
    tidy(ax, title=f"{label} at {at}, request by request", x="seconds")
    if not bars:
        return nothing_to_draw(ax, "no request was measured in this cell")
    end_s = max(bar.end_s for bar in bars)
    for row, bar in enumerate(bars):
        _draw_bar(ax, row, bar, label, mark)
    _draw_tokens(ax, bars, label)
    lanes = _lanes(cell, start_ns, end_s)
    for place, lane in enumerate(lanes):
        _draw_lane(ax, len(bars) + LANE_GAP + place * (LANE_ROWS + LANE_GAP), lane, label, mark)
    ax.set_ylim(len(bars) + len(lanes) * (LANE_ROWS + LANE_GAP) + 0.4, -1)
    ax.set_xlim(min(0.0, *(bar.start_s for bar in bars)), end_s)
    ax.set_yticks([])
    ax.grid(visible=False, axis="y")
    return ax


def _stretch(cell: CellResult) -> tuple[int, pa.Table]:
    """Where it begins, and the first requests sent from there on, by their time."""
    import pyarrow.compute as pc

    columns = ("phase", "error", "scheduled_ns", "end_ns", "chunk_ns")
    measured = phase(cell.records.select(columns), "measure")
    begin = cell.status.measure_start_ns
    if begin is not None:
        inside = measured.filter(pc.greater_equal(measured["scheduled_ns"], begin))
        measured = inside if inside.num_rows else measured
    order = pc.select_k_unstable(measured, MOST_REQUESTS, [("scheduled_ns", "ascending")])
    shown = measured.take(order)
    return (shown["scheduled_ns"][0].as_py() if shown.num_rows else 0), shown


def _bars(records: pa.Table, start_ns: int) -> Iterator[Bar]:
    for row in records.to_pylist():
        end_s = (row["end_ns"] - start_ns) / NS
        tokens_s = [(at - start_ns) / NS for at in row["chunk_ns"]]
        first_s = tokens_s[0] if tokens_s else end_s
        yield Bar((row["scheduled_ns"] - start_ns) / NS, first_s, end_s, tokens_s, row["error"])


def _draw_bar(ax: Axes, row: int, bar: Bar, label: str, mark: Mark) -> None:
    colour = MUTED if bar.error is not None else mark.colour
    waiting = ax.barh(row, bar.first_s - bar.start_s, left=bar.start_s, height=0.72, color=colour)
    streaming = ax.barh(row, bar.end_s - bar.first_s, left=bar.first_s, height=0.72, color=colour)
    for drawn, alpha in ((waiting[0], 0.22), (streaming[0], 0.62)):
        drawn.set_alpha(alpha)
        tells(drawn, label, bar.text)
    if bar.error is not None:
        ax.annotate("failed", (bar.end_s, row), fontsize=FONT_PT - 2, color=INK, va="center")


def _draw_tokens(ax: Axes, bars: Sequence[Bar], label: str) -> None:
    """Gaps in the bars where tokens came; of those that are too near one another, the first."""
    apart_s = (max(bar.end_s for bar in bars) - bars[0].start_s) * LEAST_APART
    ticks = [(at, row) for row, bar in enumerate(bars) for at in _thinned(bar.tokens_s, apart_s)]
    xs = [x for at, _ in ticks for x in (at, at, np.nan)]
    ys = [y for _, row in ticks for y in (row - 0.36, row + 0.36, np.nan)]
    (drawn,) = ax.plot(xs, ys, color=PAPER, linewidth=0.6, solid_capstyle="butt")
    belongs(drawn, label)


def _thinned(times_s: Sequence[float], apart_s: float) -> Iterator[float]:
    last_s = -math.inf
    for at in times_s:
        if at - last_s >= apart_s:
            yield at
            last_s = at


def _lanes(cell: CellResult, start_ns: int, end_s: float) -> Sequence[Lane]:
    found = [_waiting(cell, start_ns)]
    telemetry = cell.telemetry
    for name, (title, unit) in LANES.items():
        times_ns, values = series(telemetry, name)
        times_s = (times_ns - start_ns) / NS
        # the last sample before the stretch holds at its beginning
        first = max(int(np.searchsorted(times_s, 0.0, side="right")) - 1, 0)
        last = int(np.searchsorted(times_s, end_s, side="right"))
        if last - first > 1 and values[first:last].max() > 0:
            found.append(Lane(title, unit, times_s[first:last], values[first:last]))
    return found[:MOST_LANES]


def _waiting(cell: CellResult, start_ns: int) -> Lane:
    """Requests that were due and had no first token yet, as the client saw it."""
    measured = Measured.of(cell.records)
    times_s = np.concatenate([measured.scheduled_ns, measured.first_ns]) - start_ns
    steps = np.repeat([1, -1], len(measured))
    order = np.argsort(times_s, kind="stable")
    times_s, waiting = times_s[order] / NS, np.cumsum(steps[order])
    until = np.searchsorted(times_s, 0.0)
    return Lane("waiting for a first token", "", times_s[until:], waiting[until:].astype(float))


def _draw_lane(ax: Axes, top: float, lane: Lane, label: str, mark: Mark) -> None:
    """From `top` down; the y axis of the figure points down too."""
    bottom = top + LANE_ROWS
    end_s = ax.dataLim.x1
    inside = lane.times_s <= end_s
    times_s, values = lane.times_s[inside], lane.values[inside]
    if len(values) == 0:
        return
    largest = float(values.max()) or 1.0
    heights = bottom - values / largest * LANE_ROWS
    times_s, heights = np.append(times_s, end_s), np.append(heights, heights[-1])
    filled = ax.fill_between(
        times_s, bottom, heights, step="post", color=mark.colour, alpha=0.3, linewidth=0
    )
    most = quantity(largest, lane.unit) if lane.unit else tick(largest)
    tells(filled, label, f"{lane.title}: at most {most} here")
    ax.annotate(
        f"{lane.title}, up to {most}",
        (0, top),
        (2, -1),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="bottom",
        fontsize=FONT_PT - 1.5,
        color=MUTED,
    )
