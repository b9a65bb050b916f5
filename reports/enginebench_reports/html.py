"""The HTML report: one file that works offline, light and dark, on a phone and on paper.

Plots are inlined as SVG whose colours are CSS variables. Everything that comes from a Run (names,
logs, errors) is escaped by the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any, Self

import jinja2
from markupsafe import Markup, escape

from enginebench.results import ResultSet
from enginebench_reports.answer import Answer
from enginebench_reports.claims_section import ClaimsSection
from enginebench_reports.figures import Drawing, draw, draw_sweeps
from enginebench_reports.groups import Group, model_name
from enginebench_reports.look import CSS_NAMES, DARK
from enginebench_reports.provenance import day, facts, machine_line
from enginebench_reports.quantities import quantity
from enginebench_reports.summary import Summary
from enginebench_reports.tables import FOOTNOTE, facets_of, result_table

__all__ = ["page", "render"]


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A figure on the page."""

    svg: Markup
    caption: str
    is_wide: bool

    @classmethod
    def of(cls, drawing: Drawing) -> Self:
        return cls(Markup(drawing.inline_svg()), drawing.caption, drawing.is_wide)


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One group on the page."""

    group: Group
    answer: Answer | None
    plots: Sequence[Plot]
    facets: Mapping[str, str]


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """The `html` report."""
    path = folder / "report.html"
    path.write_text(page(Summary.of(results)), encoding="utf-8")
    return [path]


def page(summary: Summary) -> str:
    """The whole document."""
    swatches = {name: CSS_NAMES[mark.colour] for name, mark in summary.marks.items()}
    environment = _environment()
    environment.filters["code"] = partial(_code, swatches=swatches)
    return environment.get_template("report.html.j2").render(
        summary=summary,
        lead=summary.answers[0] if summary.answers else None,
        sections=list(_sections(summary)),
        sweeps=[Plot.of(drawing) for drawing in draw_sweeps(summary)],
        table=result_table(summary, *summary.groups, further=True),
        machines=list(dict.fromkeys(machine_line(run.machine) for run in summary.results.runs)),
        slos=list(dict.fromkeys(str(run.slo) for run in summary.results.runs if run.slo)),
        invalid=sum(not cell.is_valid for cell in summary.cells),
        cautions=sum(cell.is_valid and bool(cell.flags) for cell in summary.cells),
        swatches=swatches,
        light=_variables({name: colour for colour, name in CSS_NAMES.items()}),
        dark=_variables({CSS_NAMES[colour]: other for colour, other in DARK.items()}),
        footnote=FOOTNOTE,
        claims=ClaimsSection.of(summary),
        quality=[one.sentence for run in summary.results.runs for one in run.quality],
    )


def _sections(summary: Summary) -> Iterator[Section]:
    for group, drawings in draw(summary):
        plots = [Plot.of(drawing) for drawing in drawings]
        yield Section(group, summary.answer_of(group), plots, facets_of(summary, group))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("enginebench_reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "day": day,
        "facts": facts,
        "model_name": model_name,
        "quantity": quantity,
    }
    return environment


def _code(text: str, swatches: Mapping[str, str]) -> Markup:
    """Escaped text whose `backticks` are code, engines in their colour."""

    def coloured(match: re.Match[str]) -> str:
        colour = swatches.get(unescape(match[1]))
        style = f' style="color: var({colour})"' if colour else ""
        return f"<code{style}>{match[1]}</code>"

    whole = re.sub(r"(\d) (?=(?:µs|ms|s|kB|MB|GB)\b)", "\\1\u00a0", str(escape(text)))
    return Markup(re.sub(r"`([^`]+)`", coloured, whole))


def _variables(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}: {value};" for name, value in values.items())
