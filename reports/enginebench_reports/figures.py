"""Figures as files: which plots a report has, drawn once, saved as PNG and SVG.

An SVG for a page has its colours replaced by CSS variables, so that it follows light and dark, and
says in data attributes what its parts are (see `hover`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from enginebench.results import CellResult, ResultSet
from enginebench_reports import plots
from enginebench_reports.groups import Group, load_of, most_shared_load
from enginebench_reports.hover import as_attributes
from enginebench_reports.look import CSS_NAMES
from enginebench_reports.summary import Summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Drawing", "draw", "draw_sweeps", "render", "save"]

DPI = 200
MOST_TIMELINES = 3
TIMELINE_LOAD = 16
"""Of more requests at a time, a timeline shows a forest and no trees."""

TIMELINE_CAPTION = (
    "Each row is a request: pale while it waits for its first token, then a notch for each token "
    "that came (where they are not too many to be seen)."
)
SWEEP_CAPTION = "At the highest load that all points of a line share."


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A drawn figure: `name` is unique in a report, `text` stands in for who cannot see it, and
    `caption` says how to read it.
    """

    name: str
    text: str
    figure: Figure
    caption: str = ""
    is_wide: bool = False

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
        rest = as_attributes(rest)
        rest = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", rest)
        for colour, name in CSS_NAMES.items():
            rest = rest.replace(colour, f"var({name})")
        return f'{head} role="img" aria-label="{escape(self.text)}">{rest}'


def draw(summary: Summary) -> Iterator[tuple[Group, Sequence[Drawing]]]:
    """The drawings of each group, from believable cells only; none where there are no such."""
    for place, group in enumerate(summary.groups):
        prefix = f"{place + 1}-" if len(summary.groups) > 1 else ""
        yield group, list(_of_group(summary, group, prefix))


def draw_sweeps(summary: Summary) -> Sequence[Drawing]:
    """What several groups show together, over model sizes and hardware."""
    frame = summary.frame
    makers = {
        "model": ("model-size", plots.model_sweep),
        "hardware": ("hardware", plots.hardware_sweep),
    }
    if len(frame) and frame["machine"].nunique() > 1:
        makers["machine"] = makers.pop("hardware")
    results = summary.all_believable
    found = []
    for column, (name, make) in makers.items():
        if len(results) and frame[column].nunique() > 1:
            ax = make(results, look=summary.marks)
            if ax.lines:
                found.append(_drawing(name, ax, "engines that ran on several", SWEEP_CAPTION))
    return found


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """The `plots` report: every figure as PNG and SVG in `plots/`."""
    return save(Summary.of(results), folder / "plots")


def save(summary: Summary, folder: Path, formats: Sequence[str] = ("png", "svg")) -> Sequence[Path]:
    """Write every figure; returns the files, in the order of the page."""
    folder.mkdir(exist_ok=True)
    written = []
    for drawing in [*(each for _, drawn in draw(summary) for each in drawn), *draw_sweeps(summary)]:
        for kind in formats:
            path = folder / f"{drawing.name}.{kind}"
            path.write_bytes(drawing.png() if kind == "png" else drawing.svg().encode())
            written.append(path)
    return written


@dataclass(frozen=True, slots=True)
class Kind:
    """A figure of a group; without any of `needs` (metrics) there is none."""

    name: str
    needs: tuple[str, ...]
    caption: str
    make: Callable[[pd.DataFrame, ResultSet, Summary], Axes]


KINDS: Sequence[Kind] = (
    Kind(
        "throughput",
        ("output_tokens_per_s",),
        "Higher is better. A band is the range over repeats; a dotted line is where the lead of "
        "the two best changes, in its interval.",
        lambda frame, _, all_: plots.throughput(frame, look=all_.marks),
    ),
    Kind(
        "tpot",
        ("tpot_s_p50",),
        "Lower is better. The band is the range over repeats; without repeats it reaches up to "
        "the 90th percentile of requests.",
        lambda frame, _, all_: plots.latency(frame, look=all_.marks),
    ),
    Kind(
        "tpot-against-throughput",
        ("tpot_s_p50",),
        "Right and down is better; numbers, where there is room for them, are loads. On the grey "
        "Pareto front, nothing beats a point in both.",
        lambda frame, _, all_: plots.latency_against_throughput(frame, look=all_.marks),
    ),
    Kind(
        "ttft",
        ("ttft_s_p50",),
        "Further left is better. Marks at 50, 90 and 99%.",
        lambda _, results, all_: plots.ttft_distribution(results, look=all_.marks),
    ),
    Kind(
        "itl",
        ("itl_s_p50",),
        "Further left is better; a long right end is what readers feel as stutter.",
        lambda _, results, all_: plots.itl_distribution(results, look=all_.marks),
    ),
    Kind(
        "goodput",
        ("goodput_rps",),
        "Requests that met the SLO; higher is better.",
        lambda frame, _, all_: plots.goodput(frame, look=all_.marks),
    ),
    Kind(
        "memory",
        ("peak_rss_bytes", "peak_gpu_memory_bytes"),
        "The most that was in use at any load, loading included.",
        lambda frame, _, all_: plots.memory(frame, look=all_.marks),
    ),
    Kind(
        "energy",
        ("energy_j_per_token",),
        "Lower is better. Energy of the GPUs alone.",
        lambda frame, _, all_: plots.energy(frame, look=all_.marks),
    ),
)


def _of_group(summary: Summary, group: Group, prefix: str) -> Iterator[Drawing]:
    frame, results = summary.believable(group), summary.results_of(group)
    for kind in KINDS:
        if any(name in frame and frame[name].notna().any() for name in kind.needs):
            ax = kind.make(frame, results, summary)
            yield _drawing(prefix + kind.name, ax, group.title, kind.caption)
    for place, cell in enumerate(_to_follow(results)):
        ax = plots.timeline(cell, mark=summary.marks[cell.cell.spec.label])
        name = f"{prefix}timeline-{place + 1}"
        yield _drawing(name, ax, group.title, TIMELINE_CAPTION, is_wide=True)


def _to_follow(results: ResultSet) -> Sequence[CellResult]:
    """A cell of each engine, all at the same load, which can still be read."""
    load = most_shared_load(results, TIMELINE_LOAD)
    chosen: dict[str, CellResult] = {}
    for cell in results:
        if load_of(cell) == load:
            chosen.setdefault(cell.cell.spec.label, cell)
    return list(chosen.values())[:MOST_TIMELINES]


def _drawing(
    name: str, ax: Axes, what: str, caption: str = "", *, is_wide: bool = False
) -> Drawing:
    from matplotlib.figure import Figure

    assert isinstance(ax.figure, Figure)
    layout = ax.figure.get_layout_engine()
    assert layout is not None
    for _ in range(2):  # it settles at the second pass, and then stays as it is
        layout.execute(ax.figure)
    ax.figure.set_layout_engine("none")
    return Drawing(name, f"{ax.get_title(loc='left')}: {what}", ax.figure, caption, is_wide)
