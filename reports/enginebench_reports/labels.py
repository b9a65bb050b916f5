"""Names of lines: written beside their ends where they fit, else in a legend above the axes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from enginebench_reports.hover import belongs
from enginebench_reports.look import FONT_PT, INK, MUTED, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Ends", "name_lines", "name_points", "nothing_to_draw", "wrapped"]

Ends = dict[str, tuple[float, float]]
LONGEST_BESIDE = 14
MOST_BESIDE = 6
TOO_NEAR_PT = 13.0
LEGEND_ROW_PT = 13.0
ROWS_WITH_ROOM = 2
LEGEND_WIDTH = 48
"""Characters of a line; a longer name goes on in the next."""
LINE_HEIGHT = 0.075
"""Of the height of the axes."""


def name_lines(ax: Axes, ends: Ends, look: Mapping[str, Mark], *, beside: bool = True) -> Axes:
    """Name each line; `ends` are the data points at which lines end."""
    if beside and len(ends) <= MOST_BESIDE and max(map(len, ends)) <= LONGEST_BESIDE:
        _write_beside(ax, ends, look)
    else:
        _legend(ax, list(ends), look)
    return ax


def name_points(ax: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write (text, x, y) above the points; those that all but coincide share a label.

    To be called when limits and scales are set.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    pixels_per_pt = figure.dpi / 72
    clusters: list[tuple[list[str], tuple[float, float]]] = []
    for text, x, y in points:
        at = ax.transData.transform((x, y))
        for texts, place in clusters:
            far = abs(ax.transData.transform(place) - at) / pixels_per_pt
            if far[0] < TOO_NEAR_PT and far[1] < TOO_NEAR_PT:
                texts.append(text)
                break
        else:
            clusters.append(([text], (x, y)))
    for texts, place in clusters:
        ax.annotate(
            ", ".join(sorted(texts, key=float)),
            place,
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=FONT_PT - 1,
            color=MUTED,
        )


def nothing_to_draw(ax: Axes, why: str = "no cell has these figures") -> Axes:
    """Axes that say so instead of lines."""
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=MUTED, fontsize=FONT_PT)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _write_beside(ax: Axes, ends: Ends, look: Mapping[str, Mark]) -> None:
    to_axes = ax.transData + ax.transAxes.inverted()
    places = {name: to_axes.transform(end) for name, end in ends.items()}
    order = sorted(places, key=lambda name: float(places[name][1]))
    heights = spread([float(places[name][1]) for name in order])
    for name, height in zip(order, heights, strict=True):
        text = ax.annotate(
            name,
            (float(places[name][0]), height),
            (8, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=FONT_PT + 0.5,
            fontweight="bold",
            color=look[name].colour,
            annotation_clip=False,
        )
        belongs(text, name)


def wrapped(name: str, width: int) -> str:
    """A long name in several lines, broken at spaces and hyphens where it has any."""
    return "\n".join(textwrap.wrap(name, width)) or name


def spread(heights: Sequence[float], gap: float = LINE_HEIGHT) -> Sequence[float]:
    """Rising heights moved apart to at least `gap`, each as little as need be."""
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and _bottom(blocks[-1], gap) - _top(blocks[-2], gap) < gap:
            last = blocks.pop()
            blocks[-1].extend(last)
    return [_bottom(block, gap) + place * gap for block in blocks for place in range(len(block))]


def _bottom(block: Sequence[float], gap: float) -> float:
    return sum(block) / len(block) - (len(block) - 1) * gap / 2


def _top(block: Sequence[float], gap: float) -> float:
    return _bottom(block, gap) + (len(block) - 1) * gap


def _legend(ax: Axes, names: Sequence[str], look: Mapping[str, Mark]) -> None:
    from matplotlib.lines import Line2D

    columns = 2 if max(map(len, names)) <= 26 else 1
    texts = [wrapped(name, LEGEND_WIDTH) for name in names]
    lines = [text.count("\n") + 1 for text in texts]
    rows = -(-len(names) // columns) if columns > 1 else sum(lines)
    _make_room(ax, rows)
    keys = [
        Line2D([], [], color=look[name].colour, linestyle=look[name].line, linewidth=2.5)
        for name in names
    ]
    legend = ax.legend(
        keys,
        texts,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=FONT_PT,
        labelcolor=INK,
        borderaxespad=0.1,
        borderpad=0,
        handlelength=1.4,
    )
    legend.set_in_layout(True)
    ax.title.set_position((0, 1))
    ax.set_title(
        ax.get_title(loc="left"),
        loc="left",
        fontsize=FONT_PT + 2,
        fontweight="bold",
        color=INK,
        pad=12 + LEGEND_ROW_PT * rows,
    )


def _make_room(ax: Axes, rows: int) -> None:
    """A figure of one plot grows by a long legend, whose lines would take the room else."""
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1 and rows > ROWS_WITH_ROOM:
        width, height = figure.get_size_inches()
        more = (rows - ROWS_WITH_ROOM) * LEGEND_ROW_PT / 72
        figure.set_size_inches(width, height + more)
