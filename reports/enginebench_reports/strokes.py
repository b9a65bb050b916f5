"""How lines, points and axes of a figure are drawn, and what they tell a browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from enginebench_reports.hover import belongs, tells
from enginebench_reports.look import PAPER, Mark
from enginebench_reports.quantities import tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["band", "line", "load_axis", "plain_log_ticks", "points", "thousands"]


def line(ax: Axes, xs: Sequence[float], ys: Sequence[float], name: str, mark: Mark) -> None:
    (drawn,) = ax.plot(xs, ys, color=mark.colour, linestyle=mark.line, linewidth=2)
    belongs(drawn, name)


def band(
    ax: Axes,
    xs: Sequence[float],
    edges: tuple[Sequence[float], Sequence[float]],
    name: str,
    mark: Mark,
) -> None:
    """The area between two lines."""
    belongs(ax.fill_between(xs, *edges, color=mark.colour, alpha=0.16, linewidth=0), name)


def points(ax: Axes, places: Iterable[tuple[float, float, str]], name: str, mark: Mark) -> None:
    """Dots at (x, y), each with what it says."""
    for x, y, text in places:
        (dot,) = ax.plot(
            [x],
            [y],
            linestyle="",
            marker=mark.marker,
            markersize=7,
            color=mark.colour,
            markeredgecolor=PAPER,
            markeredgewidth=1.2,
            clip_on=False,
            zorder=3,
        )
        tells(dot, name, text)


def load_axis(ax: Axes, loads: Iterable[float]) -> None:
    """Doublings at equal distance, ticks at what was measured."""
    ticks = sorted(loads)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{load:g}" for load in ticks])
    if len(ticks) == 1:
        ax.set_xlim(ticks[0] / 2, ticks[0] * 2)
    ax.minorticks_off()


def thousands(ax: Axes, axis: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    which = ax.xaxis if axis == "x" else ax.yaxis
    which.set_major_locator(MaxNLocator(5))
    which.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def plain_log_ticks(ax: Axes) -> None:
    """1, 2, 5, 10 ... on a logarithmic x axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(10, subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
