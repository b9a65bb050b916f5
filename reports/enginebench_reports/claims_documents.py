"""Rulings as text: terminal table, Markdown, JSON; and the `claims` report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginebench.results import ResultSet
from enginebench.types import MetricInfo
from enginebench_reports.claims import Finding, Ruling, TestRuling, judge_claims
from enginebench_reports.claims_file import FigureTest, RatioTest, RunsTest, chosen_claims
from enginebench_reports.compare_arms import metric_infos
from enginebench_reports.provenance import day, machine_line
from enginebench_reports.quantities import quantity

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "claims_table",
    "deciding_cells",
    "figure_lines",
    "json_text",
    "markdown",
    "render",
]

STYLES = {"holds": "green", "does not hold": "red", "cannot be tested here": "dim"}
MOST_CELLS = 4


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """The `claims` report: claims.md and claims.json."""
    rulings = judge_claims(chosen_claims(results), results)
    written = [folder / "claims.md", folder / "claims.json"]
    written[0].write_text(markdown(rulings, results), encoding="utf-8")
    written[1].write_text(json_text(rulings), encoding="utf-8")
    return written


def claims_table(rulings: Sequence[Ruling]) -> Table:
    """For the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=True)
    for name in ("aspect", "claim", "verdict", "figure", "cells"):
        table.add_column(name)
    for ruling in rulings:
        figure = "\n".join(figure_lines(ruling))
        cells = "\n".join(_evidence(test) for test in ruling.tests)
        verdict = f"[{STYLES[ruling.verdict]}]{ruling.verdict}[/]"
        texts = (ruling.claim.aspect, ruling.claim.claim, figure, cells)
        aspect, claim, figure, cells = map(escape, texts)
        table.add_row(aspect, claim, verdict, figure, cells)
    return table


def markdown(rulings: Sequence[Ruling], results: ResultSet) -> str:
    """For a document or a comment."""
    counts = {verdict: sum(r.verdict == verdict for r in rulings) for verdict in STYLES}
    said = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    lines = [f"# Claims: {', '.join(said)}", ""]
    for run in results.runs:
        parts = (run.name, day(run), machine_line(run.machine))
        lines += [_plain(" · ".join(part for part in parts if part)), ""]
    lines += ["| aspect | claim | verdict | figure | cells |", "|---|---|---|---|---|"]
    for ruling in rulings:
        claim = ruling.claim
        sourced = f"{claim.claim} ({claim.source})" if claim.source else claim.claim
        verdict = f"**{ruling.verdict}**" if ruling.verdict == "holds" else ruling.verdict
        cells = "; ".join(filter(None, map(_evidence, ruling.tests)))
        texts = (claim.aspect, sourced, verdict, "; ".join(figure_lines(ruling)), cells)
        lines.append("| " + " | ".join(map(_plain, texts)) + " |")
    return "\n".join(lines) + "\n"


def json_text(rulings: Sequence[Ruling]) -> str:
    """Everything, every finding included."""
    document = [
        {
            "id": ruling.claim.id,
            "aspect": ruling.claim.aspect,
            "claim": ruling.claim.claim,
            "source": ruling.claim.source,
            "leaves_out": ruling.claim.leaves_out,
            "verdict": ruling.verdict,
            "tests": [_json(test) for test in ruling.tests],
        }
        for ruling in rulings
    ]
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _json(ruling: TestRuling) -> Mapping[str, Any]:
    return {
        "verdict": ruling.verdict,
        "asks": _asked(ruling),
        "reason": ruling.reason,
        "findings": [asdict(finding) for finding in ruling.findings],
    }


def figure_lines(ruling: Ruling) -> Iterator[str]:
    """What was found, and what of the claim is not tested."""
    for test in ruling.tests:
        yield from _test_lines(test)
    if ruling.claim.leaves_out:
        yield f"not tested: {ruling.claim.leaves_out}"


def _test_lines(ruling: TestRuling) -> Iterator[str]:
    if ruling.reason:
        yield ruling.reason
    if not ruling.findings:
        return
    finding, *others = ruling.findings
    if isinstance(ruling.test, RunsTest):
        for each in ruling.findings:
            yield f"{each.where}: {'ran' if each.settled == 'yes' else 'failed'}"
        return
    yield f"{_value(ruling, finding)} ({_asked(ruling)}): {finding.where}"
    if finding.settled == "open":
        yield "the interval holds the bound: more repeats would tell"
    if others:
        alike = sum(other.settled == finding.settled for other in others)
        yield f"and {alike} of {len(others)} other places alike"


def _value(ruling: TestRuling, finding: Finding) -> str:
    assert finding.value is not None
    text = _number(ruling, finding.value)
    if finding.low is None or finding.high is None:
        return text
    return f"{text} [{_number(ruling, finding.low)} to {_number(ruling, finding.high)}]"


def _number(ruling: TestRuling, value: float) -> str:
    test = ruling.test
    if isinstance(test, RatioTest):
        return f"{value:.3g}x"
    assert isinstance(test, FigureTest)
    if test.per is not None:
        return f"{value * 100:.3g}%"
    info: MetricInfo | None = metric_infos().get(test.metric)
    return quantity(value, info.unit if info else "")


def _asked(ruling: TestRuling) -> str:
    """`output_tokens_per_s at least 1.25x`."""
    test = ruling.test
    if isinstance(test, RunsTest):
        return "runs"
    what = test.metric
    if isinstance(test, FigureTest) and test.per is not None:
        what += f" / {test.per}"
    if test.at_least is not None:
        return f"{what}, claimed at least {_number(ruling, test.at_least)}"
    assert test.below is not None
    return f"{what}, claimed below {_number(ruling, test.below)}"


def _evidence(ruling: TestRuling) -> str:
    cells = deciding_cells(ruling)
    more = f" and {len(cells) - MOST_CELLS} more" if len(cells) > MOST_CELLS else ""
    return ", ".join(cells[:MOST_CELLS]) + more


def deciding_cells(ruling: TestRuling) -> Sequence[str]:
    """The cells behind the finding that decides, or behind all that ran."""
    findings = ruling.findings if isinstance(ruling.test, RunsTest) else ruling.findings[:1]
    return [cell for finding in findings for cell in finding.cells]


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
