"""A Comparison on the terminal: one row per place and metric, and notes on what to make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from enginebench_reports.compare import Comparison, Contrast
from enginebench_reports.compare_arms import Arm, Place
from enginebench_reports.quantities import DASH, quantity

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["change_text", "comparison_table", "notes", "place_titles", "shared_title"]

STYLES = {"better": "green", "worse": "red", "too few repeats": "yellow"}


def comparison_table(comparison: Comparison) -> Table:
    """Only what differs between rows is said in each of them; the rest stands in the title."""
    from rich.table import Table
    from rich.text import Text

    contrasts = comparison.contrasts
    titles = place_titles([contrast.pairs.place for contrast in contrasts])
    table = Table(title=shared_title([contrast.pairs.place for contrast in contrasts]))
    table.add_column("cell")
    table.add_column("metric")
    for name in (comparison.first.name, comparison.second.name):
        table.add_column(Text(name), justify="right")
    table.add_column("change", justify="right")
    table.add_column("95% interval", justify="right")
    table.add_column("pairs", justify="right")
    table.add_column("verdict")
    for title, contrast in zip(titles, contrasts, strict=True):
        table.add_row(*_row(title, contrast))
    return table


def notes(comparison: Comparison) -> Iterator[str]:
    """What a reader must know besides: cells left out, reasons to doubt, too few repeats."""
    for arm, places in (
        (comparison.first, comparison.only_first),
        (comparison.second, comparison.only_second),
    ):
        for place in places:
            yield f"only in {arm.name}: {place}"
    for arm in (comparison.first, comparison.second):
        yield from _doubts(arm)
    if any(contrast.low is None for contrast in comparison.contrasts):
        yield "an interval needs 3 pairs at least: `bench run --repeats 5`"


def change_text(change: float | None) -> str:
    """`+3.1%`, `-0.4%`, and from twice on `2.5x`."""
    if change is None:
        return DASH
    if change > 1:
        return f"{change + 1:.3g}x"
    return f"{change:+.1%}"


def place_titles(places: Sequence[Place]) -> Sequence[str]:
    """Each place by what distinguishes it from the others; loads always stand there."""
    varying = [name for name in _names(places) if name == "load" or not _is_shared(name, places)]
    return [" ".join(part for n in varying if (part := place.parts[n])) for place in places]


def shared_title(places: Sequence[Place]) -> str:
    """What all places have in common."""
    shared = [name for name in _names(places) if name != "load" and _is_shared(name, places)]
    return " · ".join(part for name in shared if (part := places[0].parts[name]))


def _names(places: Sequence[Place]) -> Sequence[str]:
    return list(places[0].parts) if places else []


def _is_shared(name: str, places: Sequence[Place]) -> bool:
    return len({place.parts[name] for place in places}) == 1


def _row(title: str, contrast: Contrast) -> Sequence[str]:
    from rich.markup import escape

    unit = contrast.pairs.metric.unit
    style = STYLES.get(contrast.verdict, "dim")
    return (
        escape(title),
        contrast.pairs.metric.name,
        quantity(contrast.first, unit),
        quantity(contrast.second, unit),
        change_text(contrast.change),
        _interval(contrast),
        str(len(contrast.pairs.values)),
        f"[{style}]{contrast.verdict}[/]",
    )


def _interval(contrast: Contrast) -> str:
    if contrast.low is None or contrast.high is None:
        return DASH
    return f"{change_text(contrast.low)} to {change_text(contrast.high)}"


def _doubts(arm: Arm) -> Iterator[str]:
    """Each reason once per place, with how many of its cells it concerns."""
    for place, cells in arm.cells.items():
        reasons: dict[str, list[str]] = {}
        for cell in cells:
            for flag in cell.flags:
                reasons.setdefault(f"{flag.level} {flag.name}", []).append(flag.reason)
        for name, found in reasons.items():
            yield f"{arm.name}, {place}: {name} in {len(found)} of {len(cells)}: {found[0]}"
