"""How figures look: colours that read on white and on black, type sizes, axes without clutter.

Engines get colours (and markers, for those who cannot tell colours apart) in order of name, the
same in every figure of a report. In an inlined SVG every colour becomes a CSS variable, so that a
page can show the same figure light and dark; `DARK` holds the other half. matplotlib's global
state stays untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CSS_NAMES", "DARK", "FIGURE_INCHES", "INK", "MUTED", "Mark", "axes", "marks", "tidy"]

INK, MUTED, GRID, PAPER = "#1b2130", "#5d6677", "#dde1e8", "#fefefe"
SERIES = ("#1f5fbf", "#c4560a", "#12805c", "#8040b8", "#bb2d5b", "#756600", "#0b7c8f", "#5b5f66")
DARK = {
    INK: "#e8ebf2",
    MUTED: "#a3acbd",
    GRID: "#333a47",
    PAPER: "#14171d",
    **dict(
        zip(
            SERIES,
            (
                "#75adff",
                "#ffa25e",
                "#55d0a3",
                "#c79cf8",
                "#ff8bb0",
                "#dbc84c",
                "#5fcfe3",
                "#b4b9c2",
            ),
            strict=True,
        )
    ),
}
CSS_NAMES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)},
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
LINES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")
FONT_PT = 9.0
FIGURE_INCHES = (5.2, 3.5)


@dataclass(frozen=True, slots=True)
class Mark:
    """How one series is drawn."""

    colour: str
    marker: str
    line: Literal["-", "--", ":"]


def marks(names: Iterable[str], last: Iterable[str] = ()) -> Mapping[str, Mark]:
    """A mark for each name, by order of name, those in `last` after all others.

    Beyond eight, colours come back with another line.
    """
    late = set(last)
    ordered = sorted(set(names), key=lambda name: (name in late, name))
    return {
        name: Mark(
            SERIES[place % len(SERIES)],
            MARKERS[place % len(MARKERS)],
            LINES[place // len(SERIES) % len(LINES)],
        )
        for place, name in enumerate(ordered)
    }


def axes(size_inches: tuple[float, float] = FIGURE_INCHES) -> Axes:
    """Axes of a new figure of its own, drawn by Agg, unknown to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def tidy(ax: Axes, *, title: str, x: str, y: str = "") -> None:
    """Titles on the left, faint horizontal grid, no box."""
    ax.set_title(title, loc="left", fontsize=FONT_PT + 2, fontweight="bold", color=INK, pad=10)
    ax.set_xlabel(x, fontsize=FONT_PT, color=MUTED)
    ax.set_ylabel(y, fontsize=FONT_PT, color=MUTED)
    ax.tick_params(colors=MUTED, labelsize=FONT_PT, length=3, color=GRID)
    ax.tick_params(axis="x", which="minor", bottom=False)
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.patch.set_visible(False)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
