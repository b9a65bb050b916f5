"""Holds claims against Runs: holds, does not hold, or cannot be tested here; with the figures.

Every test is made wherever the Runs allow it, and each such finding names its cells. A figure of
several repeats has a 95% interval, and where the bound lies inside it the finding is open. By
default a test must hold wherever it could be made; `holds_in = "any"` asks for one place. What is
open or was never measured makes a claim untestable, never true.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from enginebench.results import ResultSet
from enginebench_reports.claims_file import (
    Claim,
    FigureTest,
    RatioTest,
    RunsTest,
    Selector,
    Test,
)
from enginebench_reports.compare_arms import Place, arm_of, arm_of_cells, metric_infos
from enginebench_reports.interval import FEWEST_PAIRS
from enginebench_reports.provenance import machine_line
from enginebench_reports.stats import t_interval
from enginebench_reports.summary import CellSummary

__all__ = ["Finding", "Ruling", "TestRuling", "Verdict", "judge_cells", "judge_claims"]

Verdict = Literal["holds", "does not hold", "cannot be tested here"]
Settled = Literal["yes", "no", "open"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNKNOWN: Verdict = "cannot be tested here"


@dataclass(frozen=True, slots=True)
class Finding:
    """A test at one place. Without `value` the cells ran, or did not, and that is all."""

    settled: Settled
    where: str
    cells: tuple[str, ...]
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class TestRuling:
    """What became of one test: the deciding finding comes first; `reason` where there is none."""

    test: Test
    verdict: Verdict
    findings: tuple[Finding, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of a claim."""

    claim: Claim
    tests: tuple[TestRuling, ...]

    @property
    def verdict(self) -> Verdict:
        verdicts = {test.verdict for test in self.tests}
        return FAILS if FAILS in verdicts else UNKNOWN if UNKNOWN in verdicts else HOLDS


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The cells of one place on one kind of machine: repeats in order."""

    machine: str
    place: Place
    cells: Sequence[CellSummary]
    has_other_runs: bool = False

    def name(self, cell: CellSummary) -> str:
        """What a finding calls a cell: its id, and its Run's folder where there are several."""
        run = f"{cell.result.run.folder.name}/" if self.has_other_runs else ""
        return run + cell.result.cell.id

    def __str__(self) -> str:
        return f"{self.place} ({self.machine})" if self.machine else str(self.place)

    @property
    def valid(self) -> Sequence[CellSummary]:
        return [cell for cell in self.cells if cell.is_valid]

    @property
    def gpus(self) -> int:
        return len(self.cells[0].result.cell.spec.hardware.gpus)


def judge_claims(claims: Sequence[Claim], results: ResultSet) -> Sequence[Ruling]:
    """One ruling for each claim, in order."""
    return judge_cells(
        claims, [cell for found in arm_of("", results).cells.values() for cell in found]
    )


def judge_cells(claims: Sequence[Claim], cells: Sequence[CellSummary]) -> Sequence[Ruling]:
    """The same, for cells whose figures are known already."""
    machines: dict[str, list[CellSummary]] = {}
    for cell in cells:
        machines.setdefault(machine_line(cell.result.run.machine), []).append(cell)
    has_other_runs = len({cell.result.run.folder for cell in cells}) > 1
    places = [
        _Cells(machine, place, there, has_other_runs)
        for machine, found in machines.items()
        for place, there in arm_of_cells(machine, found).cells.items()
    ]
    return [Ruling(each, tuple(_ruling(test, places) for test in each.test)) for each in claims]


def _ruling(test: Test, places: Sequence[_Cells]) -> TestRuling:
    if isinstance(test, RunsTest):
        return _runs(test, places)
    if isinstance(test, RatioTest):
        findings = list(_ratios(test, places))
    else:
        findings = list(_figures(test, places))
    if not findings:
        return TestRuling(test, UNKNOWN, (), _why_nothing(test, places))
    settled = [finding.settled for finding in findings]
    verdict = _verdict(settled, test.holds_in)
    decisive: Settled = {HOLDS: "yes", FAILS: "no", UNKNOWN: "open"}[verdict]  # type: ignore[assignment]
    least_first = (test.holds_in == "all") == (test.at_least is not None)

    def order(finding: Finding) -> tuple[bool, float]:
        value = finding.value or 0.0
        return finding.settled != decisive, value if least_first else -value

    return TestRuling(test, verdict, tuple(sorted(findings, key=order)))


def _verdict(settled: Sequence[Settled], holds_in: Literal["all", "any"]) -> Verdict:
    decides: Settled = "no" if holds_in == "all" else "yes"
    if decides in settled:
        return FAILS if holds_in == "all" else HOLDS
    if "open" in settled:
        return UNKNOWN
    return HOLDS if holds_in == "all" else FAILS


def _runs(test: RunsTest, places: Sequence[_Cells]) -> TestRuling:
    findings, missing = [], []
    for selector in test.on:
        chosen = [each for each in places if _fits(each, selector)]
        valid = [each for each in chosen if each.valid]
        if valid:
            findings.append(_ran("yes", valid[0], valid[0].valid[0]))
        elif any(cell.result.status.state != "pending" for each in chosen for cell in each.cells):
            findings.append(_ran("no", chosen[0], chosen[0].cells[0]))
        else:
            missing.append(_said(selector))
    findings.sort(key=lambda finding: finding.settled != "no")
    if any(finding.settled == "no" for finding in findings):
        return TestRuling(test, FAILS, tuple(findings))
    if missing:
        return TestRuling(test, UNKNOWN, tuple(findings), f"no cells of {'; '.join(missing)}")
    return TestRuling(test, HOLDS, tuple(findings))


def _ran(settled: Settled, chosen: _Cells, cell: CellSummary) -> Finding:
    return Finding(settled, str(chosen), (chosen.name(cell),))


def _ratios(test: RatioTest, places: Sequence[_Cells]) -> Iterator[Finding]:
    hardware_is_free = any(
        each.gpus is not None or each.hardware is not None for each in (test.of, test.over)
    )
    for one in places:
        for other in places:
            if (
                one is not other
                and _key(one, hardware_is_free) == _key(other, hardware_is_free)
                and all(_fits(one, selector) for selector in (test.of, test.where))
                and all(_fits(other, selector) for selector in (test.over, test.where))
            ):
                yield from _ratio(test, one, other)


def _ratio(test: RatioTest, one: _Cells, other: _Cells) -> Iterator[Finding]:
    pairs = [
        (a, b, x / y)
        for a, b in zip(one.cells, other.cells, strict=False)
        if (x := _figure(a, test.metric)) is not None and (y := _figure(b, test.metric)) is not None
    ]
    if pairs:
        ids = [*(one.name(a) for a, _, _ in pairs), *(other.name(b) for _, b, _ in pairs)]
        where = f"{one} / {other.place.parts['engine']}"
        if one.place.hardware != other.place.hardware:
            where += f" {other.place.hardware}"
        yield _finding(test, where, ids, [value for _, _, value in pairs])


def _figures(test: FigureTest, places: Sequence[_Cells]) -> Iterator[Finding]:
    for each in places:
        if _fits(each, test.of) and _fits(each, test.where):
            found = [
                (each.name(cell), value / whole)
                for cell in each.valid
                if (value := cell.figures.get(test.metric)) is not None
                and (whole := _whole(cell, test.per)) is not None
            ]
            if found:
                ids, values = zip(*found, strict=True)
                yield _finding(test, str(each), ids, values)


def _finding(
    test: RatioTest | FigureTest, where: str, cells: Sequence[str], values: Sequence[float]
) -> Finding:
    low, high = _interval(values)
    value = _middle(values)
    least = value if low is None else low
    most = value if high is None else high
    if test.at_least is not None:
        settled: Settled = "yes" if least >= test.at_least else "open"
        settled = "no" if most < test.at_least else settled
    else:
        assert test.below is not None
        settled = "yes" if most < test.below else "open"
        settled = "no" if least >= test.below else settled
    return Finding(settled, where, tuple(cells), value, low, high)


def _middle(values: Sequence[float]) -> float:
    """The geometric mean; the arithmetic one where a figure is 0."""
    if len(values) == 1:
        return values[0]
    if min(values) > 0:
        return math.exp(math.fsum(map(math.log, values)) / len(values))
    return math.fsum(values) / len(values)


def _interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    if len(values) < FEWEST_PAIRS or min(values) <= 0:
        return None, None
    low, high = t_interval([math.log(value) for value in values], 0.95)
    return math.exp(low), math.exp(high)


def _key(each: _Cells, hardware_is_free: bool) -> tuple[object, ...]:
    """What must be equal in cells whose ratio is taken."""
    place = each.place
    hardware = None if hardware_is_free else place.hardware
    workload = (place.workload, place.workload_options, place.load)
    return each.machine, place.model, hardware, *workload


def _fits(each: _Cells, selector: Selector) -> bool:
    place, cell = each.place, each.cells[0].result.cell
    exact: Mapping[str, str | None] = {
        "engine": place.engine,
        "model": place.model,
        "workload": place.workload,
        "hardware": place.hardware,
    }
    return (
        all(getattr(selector, name) in (None, value) for name, value in exact.items())
        and selector.allows("users", cell.load.users)
        and selector.allows("gpus", each.gpus)
        and all(cell.spec.options.get(name) == value for name, value in selector.options.items())
    )


def _figure(cell: CellSummary, metric: str) -> float | None:
    value = cell.figures.get(metric) if cell.is_valid else None
    return value if value is not None and value > 0 else None


def _whole(cell: CellSummary, per: str | None) -> float | None:
    """What a figure is a share of; 1 for the figure itself, None where it is not known."""
    if per is None:
        return 1.0
    if per == "model_size_bytes":
        size = cell.result.model.size_bytes
        return float(size) if size else None
    used = cell.result.cell.spec.hardware.gpus
    gpus = {gpu.get("index"): gpu for gpu in cell.result.run.machine.get("gpus") or ()}
    sizes = [gpus.get(index, {}).get("memory_bytes") for index in used]
    return float(sum(sizes)) if sizes and all(sizes) else None


def _why_nothing(test: RatioTest | FigureTest, places: Sequence[_Cells]) -> str:
    """Why a test could be made nowhere."""
    if test.metric not in metric_infos():
        return f"no metric is called {test.metric}; `bench metrics` lists all"
    for selector in (test.of, *((test.over,) if isinstance(test, RatioTest) else ())):
        chosen = [e for e in places if _fits(e, selector) and _fits(e, test.where)]
        if not chosen:
            return f"no cells of {_said(selector, test.where)}"
        if not any(cell.figures.get(test.metric) is not None for e in chosen for cell in e.valid):
            return f"no believable cell of {_said(selector, test.where)} has {test.metric}"
    return "no two cells agree in model, hardware, workload and load"


def _said(*selectors: Selector) -> str:
    """`paged, users >=16, gpus 1`."""
    parts: dict[str, str] = {}
    for selector in selectors:
        for name in ("engine", "model", "workload", "hardware", "users", "gpus"):
            if (value := getattr(selector, name)) is not None:
                parts[name] = str(value) if name == "engine" else f"{name} {value}"
        parts.update({name: f"{name}={value}" for name, value in selector.options.items()})
    return ", ".join(parts.values()) or "any kind"
