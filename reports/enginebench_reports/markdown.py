"""The Markdown report: a summary that reads well in a pull request, plots beside it as PNG.

Percentiles of one latency share a column, so that the table stays narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from enginebench.results import ResultSet
from enginebench_reports.figures import Drawing, draw, draw_sweeps
from enginebench_reports.groups import Group, model_name
from enginebench_reports.headings import Heading
from enginebench_reports.provenance import day, machine_line
from enginebench_reports.summary import Summary
from enginebench_reports.tables import FOOTNOTE, Entry, Row, Table, result_table

__all__ = ["render", "text"]


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """The `markdown` report: report.md and the plots that it shows."""
    summary = Summary.of(results)
    drawn, sweeps = list(draw(summary)), draw_sweeps(summary)
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    written = [folder / "report.md"]
    for drawing in [*(each for _, drawings in drawn for each in drawings), *sweeps]:
        path = plots / f"{drawing.name}.png"
        path.write_bytes(drawing.png())
        written.append(path)
    written[0].write_text(text(summary, drawn, sweeps), encoding="utf-8")
    return written


def text(
    summary: Summary,
    drawn: Sequence[tuple[Group, Sequence[Drawing]]] = (),
    sweeps: Sequence[Drawing] = (),
) -> str:
    """The document; images are referred to in `plots/`."""
    lines = [f"# {summary.headline}", ""]
    lines += _where_measured(summary)
    drawings = {id(group): figures for group, figures in drawn}
    for group in summary.groups:
        lines += _section(summary, group, drawings.get(id(group), ()))
    if sweeps:
        lines += ["## Across models and hardware", "", *_images(sweeps), ""]
    lines += _quality(summary)
    lines += _doubts(summary)
    for run in summary.results.runs:
        if run.command:
            lines += ["## Repeat it", "", "```", run.command, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _where_measured(summary: Summary) -> Iterator[str]:
    for run in summary.results.runs:
        parts = [
            run.name,
            day(run),
            machine_line(run.machine),
            f"enginebench {run.enginebench_version}",
        ]
        yield " · ".join(part for part in parts if part)
        yield ""


def _section(summary: Summary, group: Group, drawings: Sequence[Drawing]) -> Iterator[str]:
    yield f"## {group.title}"
    yield ""
    if group.options:
        yield group.options
        yield ""
    answer = summary.answer_of(group)
    if answer and answer is not summary.answers[0]:
        yield answer.text
        yield ""
    yield from _table(result_table(summary, group))
    yield ""
    yield FOOTNOTE
    yield ""
    yield from _precisions(summary, group)
    yield from _images(drawings)
    yield ""


def _quality(summary: Summary) -> Iterator[str]:
    """What `bench perplexity --into` added."""
    found = [one.sentence for run in summary.results.runs for one in run.quality]
    if found:
        yield from ("## Quality", "", *(f"- {sentence}" for sentence in found), "")


def _images(drawings: Sequence[Drawing]) -> Iterator[str]:
    for drawing in drawings:
        yield f"![{drawing.text}](plots/{drawing.name}.png)"


def _precisions(summary: Summary, group: Group) -> Iterator[str]:
    """In which types each engine of the group computed, by its own word."""
    cells = [summary.cells[int(row)].result for row in group.frame.index]
    told = {cell.cell.spec.label: str(cell.status.numerics or "") for cell in cells}
    known = [f"{label}: {text}" for label, text in sorted(told.items()) if text]
    if known:
        yield f"Computed in: {'; '.join(known)}."
        yield ""


def _table(table: Table) -> Iterator[str]:
    columns = list(_columns(table.headings))
    titles = ["engine", "at once" if "concurrent" in table.load_title else "offered/s"]
    titles += ["repeat"] if table.has_repeats else []
    titles += [_title([table.headings[place] for place in places]) for places in columns]
    titles.append("verdict")
    yield _line(titles)
    yield _line(["---"] + ["---:"] * (len(titles) - 2) + ["---"])
    for row in table.rows:
        yield _line(_cells(row, columns, table.has_repeats))


def _columns(headings: Sequence[Heading]) -> Iterator[Sequence[int]]:
    """Places of headings that share a column: percentiles of one family, others alone."""
    places = range(len(headings))

    def shared(place: int) -> str | int:
        return headings[place].family if headings[place].percent is not None else place

    for _, together in groupby(places, key=shared):
        yield list(together)


def _title(headings: Sequence[Heading]) -> str:
    first = headings[0]
    if len(headings) == 1:
        return " ".join(part for part in (first.full_title, first.unit) if part)
    return f"{first.family} {first.unit} " + " / ".join(heading.title for heading in headings)


def _cells(row: Row, columns: Sequence[Sequence[int]], has_repeats: bool) -> Iterator[str]:
    yield row.label
    yield f"{row.load:g}"
    if has_repeats:
        yield str(row.repeat)
    for places in columns:
        yield " / ".join(_entry(row.entries[place]) for place in places)
    state = row.cell.result.status.state
    yield state if state != "ok" else row.status


def _entry(entry: Entry) -> str:
    return f"**{entry.text}**" if entry.is_best else entry.text


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(value: str) -> str:
    """One line, no table syntax of its own."""
    return " ".join(value.split()).replace("|", "\\|")


def _doubts(summary: Summary) -> Iterator[str]:
    doubted = [cell for cell in summary.cells if cell.flags]
    if not doubted:
        return
    yield "## Reasons to doubt"
    yield ""
    for cell in doubted:
        planned = cell.result.cell
        for flag in cell.flags:
            spec = planned.spec
            where = f"{spec.label}, {planned.load}, {model_name(spec.model)} on {spec.hardware}"
            yield f"- **{flag.level}** {where}: {_plain(flag.reason)}"
        if cell.result.status.log_tail:
            yield from ["", "  ```", *_indented(cell.result.status.log_tail), "  ```", ""]
    yield ""


def _indented(log: str) -> Iterator[str]:
    for line in log.splitlines():
        yield "  " + line.replace("```", "'''")
