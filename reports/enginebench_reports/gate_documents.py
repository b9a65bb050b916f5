"""A judgement as text: headline, terminal table, Markdown, JUnit XML, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from enginebench_reports.compare_table import change_text, place_titles, shared_title
from enginebench_reports.quantities import DASH, quantity

if TYPE_CHECKING:
    from rich.console import RenderableType

    from enginebench_reports.gate import Finding, GateJudgement

__all__ = ["headline", "json_text", "junit", "markdown", "table"]

SYMBOLS = {"pass": "✅", "regression": "❌", "inconclusive": "❔", "invalid": "⚠️"}
STYLES = {"pass": "green", "regression": "bold red", "inconclusive": "yellow"}
COLUMNS = (
    "cell",
    "metric",
    "baseline",
    "current",
    "worse by",
    "bounds",
    "limit",
    "pairs",
    "verdict",
)
MOST_REASONS = 20


def headline(judgement: GateJudgement) -> str:
    """The verdict in a sentence."""
    verdict, findings = judgement.verdict, judgement.findings
    if verdict == "invalid":
        others = len(judgement.reasons) - 1
        more = f" (and {others} more reason{'s' * (others > 1)})" if others else ""
        return f"Invalid measurement: {judgement.reasons[0]}{more}."
    if verdict == "pass":
        return (
            f"Pass: nothing is worse by {_limits(findings)} or more "
            f"({_counted(len(findings), 'comparison')}, {_pairs(findings)})."
        )
    chosen = [finding for finding in findings if finding.assessed.outcome == verdict]
    worst = max(chosen, key=lambda finding: finding.assessed.slowdown / finding.limit)
    if verdict == "regression":
        others = len(chosen) - 1
        more = f", and {_counted(others, 'other figure')} too" if others else ""
        return f"Regression: {_said(worst)}{more}."
    needed = judgement.pairs_needed
    hint = f"; about {needed} pairs would settle it" if needed is not None else ""
    return (
        f"Inconclusive after {_pairs(findings)}: {len(chosen)} of "
        f"{_counted(len(findings), 'comparison')} could be {_limits(chosen)} worse or nothing, "
        f"as {_said(worst)}{hint}."
    )


def table(judgement: GateJudgement) -> RenderableType:
    """Rows, then reasons and notes."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    findings = judgement.findings
    drawn = Table(title=shared_title([finding.place for finding in findings]) or None)
    for name in COLUMNS:
        drawn.add_column(name, justify="left" if name in ("cell", "metric", "verdict") else "right")
    for row, finding in zip(_rows(findings), findings, strict=True):
        *texts, verdict = map(escape, row)
        drawn.add_row(*texts, f"[{STYLES[finding.assessed.outcome]}]{verdict}[/]")
    lines = [Text(text, style=style) for text, style in _remarks(judgement)]
    return Group(*([drawn] if findings else []), *lines)


def markdown(judgement: GateJudgement) -> str:
    """For a job summary or a comment on a pull request."""
    lines = [f"## {SYMBOLS[judgement.verdict]} {_plain(headline(judgement))}", ""]
    findings = judgement.findings
    if findings:
        if shared := shared_title([finding.place for finding in findings]):
            lines += [_plain(shared), ""]
        lines.append(_line(COLUMNS))
        lines.append(_line(["---", "---", "---:", "---:", "---:", "---:", "---:", "---:", "---"]))
        lines += [_line(row) for row in _rows(findings)]
        lines += ["", _legend(judgement), ""]
    lines += [f"- {_plain(text)}" for text, _ in _remarks(judgement)]
    return "\n".join(lines).rstrip() + "\n"


def junit(judgement: GateJudgement) -> str:
    """A test case for each comparison: regressions are failures, what is not known is an error."""
    outcomes = [finding.assessed.outcome for finding in judgement.findings]
    suite = ElementTree.Element(
        "testsuite",
        name="bench check",
        tests=str(len(outcomes) + bool(judgement.reasons)),
        failures=str(outcomes.count("regression")),
        errors=str(outcomes.count("inconclusive") + bool(judgement.reasons)),
    )
    for finding in judgement.findings:
        case = _case(suite, str(finding.place), finding.metric.name)
        if finding.assessed.outcome == "regression":
            _problem(case, "failure", "regression", _said(finding))
        elif finding.assessed.outcome == "inconclusive":
            _problem(case, "error", "inconclusive", _said(finding))
    if judgement.reasons:
        case = _case(suite, "bench check", "validity")
        _problem(case, "error", "invalid", "\n".join(judgement.reasons))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def json_text(judgement: GateJudgement) -> str:
    """Everything; what is unbounded is null."""
    rules = judgement.rules
    document = {
        "verdict": judgement.verdict,
        "headline": judgement.headline,
        "pairs_needed": judgement.pairs_needed,
        "rules": {
            "fail_over": rules.fail_over,
            "fail_over_of": dict(rules.fail_over_of),
            "false_alarms": rules.false_alarms,
            "missed": rules.missed,
            "allow_machine_mismatch": rules.allow_machine_mismatch,
        },
        "comparisons": [_json(finding) for finding in judgement.findings],
        "reasons": list(judgement.reasons),
        "notes": list(judgement.notes),
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _json(finding: Finding) -> Mapping[str, Any]:
    place, assessed = finding.place, finding.assessed
    return {
        "cell": {
            "engine": place.engine,
            "options": None if place.options is None else dict(place.options),
            "model": place.model,
            "hardware": place.hardware,
            "workload": place.workload,
            "workload_options": dict(place.workload_options),
            "load": place.load,
        },
        "metric": finding.metric.name,
        "unit": finding.metric.unit,
        "better": finding.metric.better,
        "limit": finding.limit,
        "pairs": [list(pair) for pair in finding.pairs],
        "baseline": finding.baseline,
        "current": finding.current,
        "outcome": assessed.outcome,
        "slowdown": assessed.slowdown,
        "low": _finite(assessed.low),
        "high": _finite(assessed.high),
        "p_adjusted": assessed.p_adjusted,
        "interval_95": [_finite(bound) for bound in assessed.interval],
        "bootstrap_95": list(boot) if (boot := finding.bootstrap) else None,
        "pairs_needed": assessed.pairs_needed,
    }


def _rows(findings: Sequence[Finding]) -> Iterator[Sequence[str]]:
    titles = place_titles([finding.place for finding in findings])
    for title, finding in zip(titles, findings, strict=True):
        yield (
            title,
            finding.metric.name,
            quantity(finding.baseline, finding.metric.unit),
            quantity(finding.current, finding.metric.unit),
            change_text(finding.assessed.slowdown),
            _bounds(finding),
            f"{finding.limit:.3g}" if finding.limit > 1 else f"{finding.limit * 100:.3g}%",
            str(len(finding.pairs)),
            _outcome(finding),
        )


def _outcome(finding: Finding) -> str:
    assessed = finding.assessed
    if assessed.outcome == "pass" and assessed.low > 0:
        return "pass (worse, under the limit)"
    if assessed.outcome == "pass" and assessed.interval[1] < 0:
        return "pass (better)"
    return assessed.outcome


def _bounds(finding: Finding) -> str:
    low, high = finding.assessed.low, finding.assessed.high
    if not math.isfinite(high):
        return DASH
    return f"{change_text(low)} to {change_text(high)}"


def _said(finding: Finding) -> str:
    """`tpot_s_p50 of quant c1 is 10.2% worse (+8.1% to +12.4%)`."""
    by = change_text(abs(finding.assessed.slowdown)).lstrip("+")
    direction = "worse" if finding.assessed.slowdown >= 0 else "better"
    return f"{finding.metric.name} of {finding.place} is {by} {direction} ({_bounds(finding)})"


def _remarks(judgement: GateJudgement) -> Iterator[tuple[str, str]]:
    """Text and style."""
    for reason in judgement.reasons[:MOST_REASONS]:
        yield f"invalid: {reason}", "bold red"
    if len(judgement.reasons) > MOST_REASONS:
        yield f"... and {len(judgement.reasons) - MOST_REASONS} more reasons", "bold red"
    for note in judgement.notes:
        yield f"note: {note}", "dim"


def _legend(judgement: GateJudgement) -> str:
    rules = judgement.rules
    return (
        f"Worse by: geometric mean over pairs of runs. Bounds: the slowdown is below the lower one "
        f"with a chance of {rules.false_alarms:.2%} at most in the whole table, above the upper "
        f"one with {rules.missed:.2%} at most."
    )


def _limits(findings: Sequence[Finding]) -> str:
    limits = sorted({finding.limit for finding in findings})
    return " / ".join(f"{limit * 100:.3g}%" for limit in limits)


def _pairs(findings: Sequence[Finding]) -> str:
    counts = sorted({len(finding.pairs) for finding in findings})
    return _counted(counts[0], "pair") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} pairs"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _case(suite: ElementTree.Element, place: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=place, name=name)


def _problem(case: ElementTree.Element, tag: str, kind: str, text: str) -> None:
    clean = _xml_safe(text)
    ElementTree.SubElement(case, tag, type=kind, message=clean.split("\n")[0]).text = clean


def _xml_safe(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(
        each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """One line without table syntax or HTML of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
