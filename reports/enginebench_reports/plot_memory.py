"""What engines occupy: peak memory over all their loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from enginebench.results import ResultSet
from enginebench_reports.groups import Group
from enginebench_reports.hover import tells
from enginebench_reports.labels import nothing_to_draw, wrapped
from enginebench_reports.look import FIGURE_INCHES, FONT_PT, INK, axes, marks, tidy
from enginebench_reports.quantities import quantity
from enginebench_reports.series import Look, Series, series_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["memory"]

MOST_LETTERS = 24
"""In a line beside a bar."""
KINDS = {"peak_rss_bytes": "resident", "peak_gpu_memory_bytes": "GPU"}


def memory(
    data: ResultSet | pd.DataFrame | Group, *, ax: Axes | None = None, look: Look | None = None
) -> Axes:
    """Peak memory of each engine over its loads: resident, and GPU memory where there is any."""
    series = series_of(data)
    look = look or marks(each.name for each in series)
    bars = [bar for each in series for bar in _bars(each)]
    ax = ax or axes((FIGURE_INCHES[0], max(1.6, 0.8 + 0.45 * len(bars))))
    tidy(ax, title="Peak memory", x="")
    if not bars:
        return nothing_to_draw(ax)
    for row, (name, kind, peak) in enumerate(bars):
        (bar,) = ax.barh(row, peak / 1e9, height=0.62, color=look[name].colour)
        tells(bar, name, f"{name}: {quantity(peak, 'bytes')} {kind} at most")
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
    texts = [wrapped(name, MOST_LETTERS) for name, _, _ in bars]
    names = [
        f"{text}\n{kind}" if several else text
        for text, (_, kind, _) in zip(texts, bars, strict=True)
    ]
    ax.set_yticks(range(len(bars)), names, fontsize=FONT_PT, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["bottom"].set_visible(False)
    ax.set_xticks([])
    ax.set_ylim(max(len(bars), 2) - 0.4, -0.6)  # first on top
    ax.set_xlim(0, max(peak for _, _, peak in bars) / 1e9 * 1.22)
    return ax


def _bars(series: Series) -> Sequence[tuple[str, str, float]]:
    bars = []
    for metric, kind in KINDS.items():
        found = series.curve(metric)
        if found and (peak := max(point.high for point in found)) > 0:
            bars.append((series.name, kind, peak))
    return bars
