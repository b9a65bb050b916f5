"""The `why` report: what each technique is worth, as Markdown and as a plot."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from enginebench.results import ResultSet
from enginebench_reports.compare_table import change_text, place_titles
from enginebench_reports.look import MUTED, SERIES, axes, tidy
from enginebench_reports.quantities import DASH
from enginebench_reports.why import METRICS, Ablation, ablations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from enginebench_reports.compare import Contrast

__all__ = ["markdown", "plot_losses", "render"]

TITLES = {
    "output_tokens_per_s": "output tokens/s",
    "ttft_s_p50": "TTFT, median",
    "tpot_s_p50": "TPOT, median",
}
NOTHING = (
    "No engine in these Runs was measured both with all of its techniques and without one of them. "
    "`bench why ENGINE` does that.\n"
)
BAR = 0.8


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """why.md, and plots/why.png and .svg (one for each engine) if there is anything to show."""
    found = ablations(results)
    document = folder / "why.md"
    document.write_text(markdown(found), encoding="utf-8")
    written = [document]
    for place, ablation in enumerate(found):
        name = "why" if len(found) == 1 else f"why-{place + 1}"
        written += _save(plot_losses(ablation), folder / "plots" / name)
    return written


def markdown(found: Sequence[Ablation]) -> str:
    """One section an engine: its answer, then what changes without each technique."""
    if not found:
        return NOTHING
    return "\n".join(line for ablation in found for line in _section(ablation))


def plot_losses(ablation: Ablation, ax: Axes | None = None) -> Axes:
    """Bars: how much of its output tokens/s the engine keeps without each technique, by load."""
    names = [loss.technique for loss in ablation.losses]
    places = ablation.places
    ax = axes((5.2, 1.2 + 0.28 * len(names) * max(1, len(places)) ** 0.7)) if ax is None else ax
    height = BAR / len(places)
    for row, (place, title) in enumerate(zip(places, place_titles(places), strict=True)):
        contrasts = [loss.at(place, "output_tokens_per_s") for loss in ablation.losses]
        kept = [100 * (1 + one.change) if one else float("nan") for one in contrasts]
        at = [index - BAR / 2 + (row + 0.5) * height for index in range(len(names))]
        colour = SERIES[row % len(SERIES)]
        ax.barh(at, kept, height * 0.9, color=colour, label=title)
    ax.axvline(100, color=MUTED, linewidth=0.8)
    ax.set_yticks(range(len(names)), [f"no {name}" for name in names])
    ax.invert_yaxis()
    tidy(ax, title=f"{ablation.engine} without one technique", x="% of its output tokens/s")
    ax.grid(visible=False, axis="y")
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(1.0, 0.0))
    return ax


def _save(ax: Axes, base: Path) -> Sequence[Path]:
    base.parent.mkdir(exist_ok=True)
    written = []
    for kind in ("png", "svg"):
        out = io.BytesIO()
        figure = ax.get_figure()
        assert figure is not None
        figure.savefig(out, format=kind, dpi=200, facecolor="white")  # type: ignore[union-attr]
        path = base.with_suffix(f".{kind}")
        path.write_bytes(out.getvalue())
        written.append(path)
    return written


def _section(ablation: Ablation) -> Iterator[str]:
    yield f"## {ablation.engine}: {_answer(ablation)}"
    yield ""
    places = ablation.places
    for metric in METRICS:
        rows = [
            [loss.technique, *(_change(loss.at(place, metric)) for place in places)]
            for loss in ablation.losses
        ]
        if all(text == DASH for row in rows for text in row[1:]):
            continue
        yield f"Change of {TITLES[metric]} without the technique:"
        yield ""
        yield "| without | " + " | ".join(place_titles(places)) + " |"
        yield "| --- |" + " ---: |" * len(places)
        for row in rows:
            yield "| " + " | ".join(row) + " |"
        yield ""


def _answer(ablation: Ablation) -> str:
    """Which technique is worth most, and where."""
    titles = dict(zip(ablation.places, place_titles(ablation.places), strict=True))
    losses = [
        (contrast.change, loss.technique, titles[contrast.pairs.place])
        for loss in ablation.losses
        for contrast in loss.contrasts
        if contrast.pairs.metric.name == "output_tokens_per_s"
    ]
    if not losses:
        return "no figures to compare"
    change, technique, place = min(losses)
    if change >= 0:
        return "no technique is worth anything at these loads"
    return f"without {technique} it gives {-change:.0%} fewer output tokens/s ({place})"


def _change(contrast: Contrast | None) -> str:
    if contrast is None:
        return DASH
    text = change_text(contrast.change)
    if contrast.low is None or contrast.high is None:
        return text
    return f"{text} [{change_text(contrast.low)} to {change_text(contrast.high)}]"
