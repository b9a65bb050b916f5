"""Figures as files: which plots a report has, drawn once, saved as PNG and SVG.

An SVG for a page has its colours replaced by CSS variables, so that it follows light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from enginebench.results import ResultSet
from enginebench_reports import plots
from enginebench_reports.groups import Group
from enginebench_reports.look import CSS_NAMES
from enginebench_reports.summary import Summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Drawing", "draw", "render", "save"]

DPI = 200


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A drawn figure: `name` is unique in a report, `text` stands in for who cannot see it."""

    name: str
    text: str
    figure: Figure

    def png(self) -> bytes:
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=DPI, facecolor="white")
        return out.getvalue()

    def svg(self) -> str:
        """Text stays text; the same figure always gives the same bytes."""
        from matplotlib import rc_context

        out = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        return out.getvalue()

    def inline_svg(self) -> str:
        """For a page: no XML head, no size and no ids of its own, colours as CSS variables."""
        whole = self.svg()
        body = re.sub(
            r"<metadata>.*?</metadata>", "", whole[whole.index("<svg") :], flags=re.DOTALL
        )
        head, rest = body.split(">", 1)
        head = re.sub(r' (width|height)="[^"]*"', "", head)
        rest = re.sub(r'<g id="[^"]*"', "<g", rest)
        rest = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", rest)
        for colour, name in CSS_NAMES.items():
            rest = rest.replace(colour, f"var({name})")
        return f'{head} role="img" aria-label="{escape(self.text)}">{rest}'


def draw(summary: Summary) -> Iterator[tuple[Group, Sequence[Drawing]]]:
    """The drawings of each group, from believable cells only."""
    for place, group in enumerate(summary.groups):
        frame, results = summary.believable(group), summary.results_of(group)
        prefix = f"{place + 1}-" if len(summary.groups) > 1 else ""
        yield (
            group,
            [
                _drawing(f"{prefix}{name}", make(frame, results, summary), group)
                for name, make in FIGURES.items()
            ],
        )


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """The `plots` report: every figure as PNG and SVG in `plots/`."""
    return save(Summary.of(results), folder / "plots")


def save(summary: Summary, folder: Path, formats: Sequence[str] = ("png", "svg")) -> Sequence[Path]:
    """Write every figure; returns the files, in the order of the page."""
    folder.mkdir(exist_ok=True)
    written = []
    for _, drawings in draw(summary):
        for drawing in drawings:
            for kind in formats:
                path = folder / f"{drawing.name}.{kind}"
                path.write_bytes(drawing.png() if kind == "png" else drawing.svg().encode())
                written.append(path)
    return written


Maker = Callable[["pd.DataFrame", ResultSet, Summary], "Axes"]
FIGURES: dict[str, Maker] = {
    "throughput": lambda frame, _, all_: plots.throughput(frame, look=all_.marks),
    "tpot-against-throughput": lambda frame, _, all_: plots.latency_against_throughput(
        frame, look=all_.marks
    ),
    "ttft": lambda _, results, all_: plots.ttft_distribution(results, look=all_.marks),
    "memory": lambda frame, _, all_: plots.memory(frame, look=all_.marks),
}


def _drawing(name: str, ax: Axes, group: Group) -> Drawing:
    from matplotlib.figure import Figure

    assert isinstance(ax.figure, Figure)
    for _ in range(2):  # the layout settles at the second pass, and then stays as it is
        ax.figure.draw_without_rendering()
    ax.figure.set_layout_engine("none")
    return Drawing(name, f"{ax.get_title(loc='left')}: {group.title}", ax.figure)
