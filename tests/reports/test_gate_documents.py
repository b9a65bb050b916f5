"""What a judgement says: headline, table, Markdown, JUnit, JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import simulated
from rich.console import Console

from enginebench.gate import GateRules
from enginebench_reports.gate import GateJudgement, judge

NASTY = "engine|x <b>\x1b[31m died"


def arms(folder: Path, factors: Sequence[float], *, broken: bool = False) -> GateJudgement:
    """Baseline at 10 ms a token against 10 ms times each factor, one per repeat."""
    sides = []
    for name in ("a", "b"):
        cells = []
        for repeat, factor in enumerate(factors):
            speed = simulated.Speed(50, 10 * (factor if name == "b" else 1.0))
            data = simulated.serve(speed, 1, requests=12)
            cells.append((simulated.cell(repeat, "quant", 1, repeat=repeat), data))
        if broken and name == "b":
            cells[0] = (cells[0][0], simulated.failed(NASTY))
        sides.append(simulated.save(folder / name, cells))
    return judge(sides[0], sides[1], GateRules(metrics=("tpot_s_p50",)))


@pytest.fixture
def regression(tmp_path: Path) -> GateJudgement:
    return arms(tmp_path, (1.10, 1.11, 1.09, 1.10))


@pytest.fixture
def passed(tmp_path: Path) -> GateJudgement:
    return arms(tmp_path, (1.001, 0.999, 1.0, 1.001))


@pytest.fixture
def inconclusive(tmp_path: Path) -> GateJudgement:
    return arms(tmp_path, (1.1, 0.9, 1.05, 1.0))


@pytest.fixture
def invalid(tmp_path: Path) -> GateJudgement:
    return arms(tmp_path, (1.0, 1.0, 1.0, 1.0), broken=True)


def printed(judgement: GateJudgement) -> str:
    out = io.StringIO()
    Console(file=out, width=250).print(judgement.table())
    return out.getvalue()


def cases(judgement: GateJudgement) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(judgement.junit()).iter("testcase"))


def test_a_regression_is_named_with_its_size(regression: GateJudgement) -> None:
    assert regression.headline.startswith("Regression: tpot_s_p50 of quant smollm2-135m")
    assert "is 10.0% worse" in regression.headline
    assert all(
        text in printed(regression) for text in ("10.0 ms", "11.0 ms", "+10.0%", "regression")
    )
    (case,) = cases(regression)
    failure = case.find("failure")
    assert failure is not None and failure.get("type") == "regression"
    assert regression.markdown().startswith("## ❌ Regression: ")


def test_a_pass_says_what_was_ruled_out(passed: GateJudgement) -> None:
    assert passed.headline == ("Pass: nothing is worse by 3% or more (1 comparison, 4 pairs).")
    (case,) = cases(passed)
    assert len(case) == 0


def test_inconclusive_is_no_pass_anywhere(inconclusive: GateJudgement) -> None:
    assert "pairs would settle it" in inconclusive.headline
    (case,) = cases(inconclusive)
    assert case.find("error") is not None
    assert "❔" in inconclusive.markdown()


def test_invalid_says_why_first(invalid: GateJudgement) -> None:
    assert invalid.headline.startswith("Invalid measurement: current, quant")
    problem = cases(invalid)[-1].find("error")
    assert problem is not None and "engine|x <b>" in (problem.text or "")
    assert "\x1b" not in invalid.junit()


def test_foreign_text_breaks_no_markdown(invalid: GateJudgement) -> None:
    text = invalid.markdown()
    assert "engine\\|x &lt;b>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


@pytest.mark.parametrize("name", ["regression", "passed", "inconclusive", "invalid"])
def test_json_holds_everything(name: str, request: pytest.FixtureRequest) -> None:
    judgement = request.getfixturevalue(name)
    document = json.loads(judgement.json())
    assert document["verdict"] == judgement.verdict
    (comparison,) = document["comparisons"]
    assert comparison["metric"] == "tpot_s_p50"
    assert len(comparison["pairs"]) == (3 if name == "invalid" else 4)
    assert comparison["outcome"] in {"pass", "regression", "inconclusive"}
    counts = ElementTree.fromstring(judgement.junit())[0].attrib
    assert int(counts["tests"]) == len(cases(judgement))
    assert int(counts["failures"]) == (name == "regression")
    assert int(counts["errors"]) == (name in {"inconclusive", "invalid"})
