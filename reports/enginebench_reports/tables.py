"""The result table as plain data: headings with units, one row per cell, text ready to print.

A percentile that the sample cannot support is a dash, with the reason; one that is not bounded
with 99% confidence carries `~` (see `percentiles`). HTML and Markdown draw the same Table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from enginebench_reports.groups import Group, load_of
from enginebench_reports.percentiles import (
    PERCENTS,
    bounded_from,
    is_bounded,
    is_supported,
    printed_from,
)
from enginebench_reports.quantities import DASH, amount, tick
from enginebench_reports.summary import CellSummary, Summary

__all__ = ["FOOTNOTE", "Entry", "Heading", "Row", "Table", "result_table"]

FOOTNOTE = (
    "~ marks a percentile whose sample is too small for a 99%-confidence bound ("
    + ", ".join(f"p{percent} needs {bounded_from(percent)}" for percent in PERCENTS)
    + f"); {DASH} means too few samples to print it at all ("
    + ", ".join(f"p{percent} needs {printed_from(percent)}" for percent in PERCENTS)
    + "), or not measured here."
)


@dataclass(frozen=True, slots=True)
class Heading:
    """A column: `metric` divided by `scale`, in `unit`; a percentile rests on `samples`."""

    family: str
    title: str
    unit: str
    metric: str
    scale: float = 1.0
    percent: int | None = None
    samples: str = "requests_ok"

    @property
    def is_count(self) -> bool:
        return self.metric.startswith("requests_") and not self.metric.endswith("_s")

    @property
    def full_title(self) -> str:
        return " ".join(part for part in (self.family, self.title) if part)


@dataclass(frozen=True, slots=True)
class Entry:
    """A figure in a row: `value` sorts, `note` explains a dash or a ~, `is_best` of its load."""

    text: str
    value: float | None = None
    note: str = ""
    is_best: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One cell."""

    label: str
    load: float
    repeat: int | None
    entries: Sequence[Entry]
    status: Literal["ok", "caution", "invalid"]
    number: int
    cell: CellSummary


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows of one group, by load and engine. `has_repeats` tells whether to show that column."""

    load_title: str
    headings: Sequence[Heading]
    rows: Sequence[Row]
    has_repeats: bool

    @property
    def families(self) -> Sequence[tuple[str, int]]:
        """Neighbouring headings of one family, and how many they are."""
        spans: list[tuple[str, int]] = []
        for heading in self.headings:
            if spans and heading.family and spans[-1][0] == heading.family:
                spans[-1] = (heading.family, spans[-1][1] + 1)
            else:
                spans.append((heading.family, 1))
        return spans


def _percentile_headings(family: str, name: str, samples: str = "requests_ok") -> list[Heading]:
    return [
        Heading(family, f"p{percent}", "ms", f"{name}_p{percent}", 1e-3, percent, samples)
        for percent in PERCENTS
    ]


HEADINGS: Sequence[Heading] = (
    Heading("output", "tokens/s", "", "output_tokens_per_s"),
    *_percentile_headings("TTFT", "ttft_s"),
    *_percentile_headings("TPOT", "tpot_s"),
    *_percentile_headings("ITL", "itl_s", "itl_samples"),
    Heading("", "req/s", "", "requests_per_s"),
    Heading("", "ok", "", "requests_ok"),
    Heading("", "errors", "", "requests_failed"),
    Heading("memory", "RSS", "MB", "peak_rss_bytes", 1e6),
    Heading("memory", "GPU", "MB", "peak_gpu_memory_bytes", 1e6),
    Heading("", "energy", "J/token", "energy_j_per_token"),
)
OPTIONAL = {"peak_rss_bytes", "peak_gpu_memory_bytes", "energy_j_per_token"}
"""Columns that only appear where at least one cell of the report has them."""
CONTESTED = {
    "output_tokens_per_s": max,
    "requests_per_s": max,
    **{f"{name}_p{percent}": min for name in ("ttft_s", "tpot_s", "itl_s") for percent in PERCENTS},
}


def result_table(summary: Summary, group: Group) -> Table:
    """The cells of a group."""
    numbers = sorted(
        (int(row) for row in group.frame.index), key=lambda number: _order(summary, number)
    )
    has_repeats = len({summary.cells[number].result.cell.repeat for number in numbers}) > 1
    headings = [heading for heading in HEADINGS if _is_shown(heading, summary)]
    best = _best(summary, numbers)
    rows = [_row(summary.cells[number], number, headings, best) for number in numbers]
    return Table(group.load_title, headings, rows, has_repeats)


def _order(summary: Summary, number: int) -> tuple[float, str, int]:
    cell = summary.cells[number].result.cell
    return (load_of(summary.cells[number].result), cell.spec.label, cell.repeat)


def _is_shown(heading: Heading, summary: Summary) -> bool:
    return heading.metric not in OPTIONAL or any(
        cell.figures.get(heading.metric) is not None for cell in summary.cells
    )


def _best(summary: Summary, numbers: Sequence[int]) -> Mapping[tuple[str, float], float]:
    """The best believable figure of each contested metric and load, where engines compete."""
    found: dict[tuple[str, float], float] = {}
    for load in {load_of(summary.cells[number].result) for number in numbers}:
        rivals = [summary.cells[n] for n in numbers if load_of(summary.cells[n].result) == load]
        rivals = [cell for cell in rivals if cell.is_valid and not cell.result.is_null]
        if len({cell.result.cell.spec.label for cell in rivals}) < 2:
            continue
        for metric, choose in CONTESTED.items():
            values = [v for cell in rivals if (v := cell.figures.get(metric)) is not None]
            if values:
                found[metric, load] = choose(values)
    return found


def _row(
    cell: CellSummary,
    number: int,
    headings: Sequence[Heading],
    best: Mapping[tuple[str, float], float],
) -> Row:
    load = load_of(cell.result)
    status: Literal["ok", "caution", "invalid"] = "ok"
    if cell.flags:
        status = "caution" if cell.is_valid else "invalid"
    return Row(
        cell.result.cell.spec.label,
        load,
        cell.result.cell.repeat,
        [_entry(cell, heading, best.get((heading.metric, load))) for heading in headings],
        status,
        number,
        cell,
    )


def _entry(cell: CellSummary, heading: Heading, best: float | None) -> Entry:
    value = cell.figures.get(heading.metric)
    samples = cell.figures.get(heading.samples) or 0.0
    if value is None:
        return Entry(DASH, note=_why_missing(heading, samples))
    text, note = (tick if heading.is_count else amount)(value / heading.scale), ""
    if heading.percent is not None and not is_bounded(heading.percent, samples):
        text = f"~{text}"
        note = (
            f"estimate from {samples:.0f} samples; a 99%-confidence bound needs "
            f"{bounded_from(heading.percent)}"
        )
    return Entry(
        text, value, note, is_best=not cell.result.is_null and cell.is_valid and value == best
    )


def _why_missing(heading: Heading, samples: float) -> str:
    if heading.percent is not None and not is_supported(heading.percent, samples):
        needed = printed_from(heading.percent)
        return f"p{heading.percent} needs {needed} samples, there are {samples:.0f}"
    return "not measured in this cell"
