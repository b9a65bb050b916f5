"""The result table as plain data: headings with units, one row per cell, text ready to print.

A percentile that the sample cannot support is a dash, with the reason; one that is not bounded
with 99% confidence carries `~` (see `percentiles`). HTML and Markdown draw the same Table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from enginebench_reports.groups import Group, load_of, model_name
from enginebench_reports.headings import Heading, first_headings, further_headings
from enginebench_reports.percentiles import (
    PERCENTS,
    bounded_from,
    is_bounded,
    is_supported,
    printed_from,
)
from enginebench_reports.quantities import DASH, amount, tick
from enginebench_reports.summary import CellSummary, Summary

__all__ = ["FOOTNOTE", "Entry", "Row", "Table", "facets_of", "result_table"]

FOOTNOTE = (
    "~ marks a percentile whose sample is too small for a 99%-confidence bound ("
    + ", ".join(f"p{percent} needs {bounded_from(percent)}" for percent in PERCENTS)
    + f"); {DASH} means too few samples to print it at all ("
    + ", ".join(f"p{percent} needs {printed_from(percent)}" for percent in PERCENTS)
    + "), or not measured here."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A figure in a row: `value` sorts, `note` explains a dash or a ~, `is_best` of its load."""

    text: str
    value: float | None = None
    note: str = ""
    is_best: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One cell. `facets` say where it stands, by name; the page filters rows by them."""

    label: str
    load: float
    load_text: str
    repeat: int | None
    entries: Sequence[Entry]
    status: Literal["ok", "caution", "invalid"]
    number: int
    cell: CellSummary
    facets: Mapping[str, str]

    @property
    def place(self) -> Sequence[str]:
        """The facets that all rows of a group share."""
        return [text for name, text in self.facets.items() if name not in ("engine", "run")]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows by group, load and engine. `facets` are those in which rows differ, besides the engine;
    `has_repeats` tells whether to show that column.
    """

    load_title: str
    headings: Sequence[Heading]
    rows: Sequence[Row]
    has_repeats: bool
    facets: Sequence[str]

    @property
    def families(self) -> Sequence[tuple[str, Sequence[Heading]]]:
        """Neighbouring headings of one family; those without one stand alone."""
        spans: list[tuple[str, list[Heading]]] = []
        for heading in self.headings:
            if spans and heading.family and spans[-1][0] == heading.family:
                spans[-1][1].append(heading)
            else:
                spans.append((heading.family, [heading]))
        return spans


CONTESTED = {
    "output_tokens_per_s": max,
    "requests_per_s": max,
    "goodput_rps": max,
    **{f"{name}_p{percent}": min for name in ("ttft_s", "tpot_s", "itl_s") for percent in PERCENTS},
}
FACETS = ("model", "machine", "hardware", "workload", "run")


def result_table(summary: Summary, *chosen: Group, further: bool = False) -> Table:
    """The cells of the chosen groups; with `further`, every metric that any of them has."""
    headings = _headings(summary, further)
    rows: list[Row] = []
    for group in chosen:
        numbers = sorted(map(int, group.frame.index), key=lambda number: _order(summary, number))
        best = _best(summary, numbers)
        facets = facets_of(summary, group)
        rows += [_row(summary.cells[number], number, headings, best, facets) for number in numbers]
    differing = [name for name in FACETS if len({row.facets[name] for row in rows}) > 1]
    has_repeats = len({row.repeat for row in rows}) > 1
    titles = {group.load_title for group in chosen}
    title = titles.pop() if len(titles) == 1 else "load"
    return Table(title, headings, rows, has_repeats, differing)


def _headings(summary: Summary, further: bool) -> Sequence[Heading]:
    names = {
        name: True
        for cell in summary.cells
        for name, value in cell.figures.items()
        if value is not None
    }
    more = further_headings(summary.infos, names) if further else []
    return [*first_headings(names), *more]


def facets_of(summary: Summary, group: Group) -> Mapping[str, str]:
    """Where the group stands, in words, by what the page filters by."""
    run = summary.cells[int(group.frame.index[0])].result.run
    loop = "" if group.loop == "closed" else ", open loop"
    return {
        "model": model_name(group.model),
        "machine": run.machine_name or "unknown machine",
        "hardware": group.hardware or "remote",
        "workload": f"{group.workload} {group.options}".strip() + loop,
    }


def _order(summary: Summary, number: int) -> tuple[float, str, int]:
    cell = summary.cells[number].result.cell
    return (load_of(summary.cells[number].result), cell.spec.label, cell.repeat)


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
    facets: Mapping[str, str],
) -> Row:
    load = load_of(cell.result)
    is_open = cell.result.cell.load.users is None
    status: Literal["ok", "caution", "invalid"] = "ok"
    if cell.flags:
        status = "caution" if cell.is_valid else "invalid"
    return Row(
        cell.result.cell.spec.label,
        load,
        f"{load:g}/s" if is_open else f"{load:g}",
        cell.result.cell.repeat,
        [_entry(cell, heading, best.get((heading.metric, load))) for heading in headings],
        status,
        number,
        cell,
        {
            "engine": cell.result.cell.spec.label,
            **facets,
            "run": cell.result.run.folder.name,
        },
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
