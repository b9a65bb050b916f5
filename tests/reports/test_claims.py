"""Claims against Runs of known truth: every verdict, every kind of test, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import simulated
from click.testing import CliRunner, Result

from enginebench.cli import main
from enginebench.results import ResultSet
from enginebench.types import Hardware
from enginebench_reports.claims import Ruling, judge_claims
from enginebench_reports.claims_documents import json_text, markdown
from enginebench_reports.claims_file import Claim, built_in_claims

GPU = Hardware(gpus=(0,))
TWO = Hardware(gpus=(0, 1))
CPU = Hardware(cpu_threads=2)
GPUS = [{"index": index, "name": "Example GPU", "memory_bytes": 10_000_000} for index in (0, 1)]

Speeds = Mapping[tuple[str, Hardware, int], Iterable[float]]


def run(folder: Path, speeds: Speeds) -> ResultSet:
    """Cells by engine, hardware and users; TPOT in ms of each repeat, 0 for a cell that failed."""
    cells = []
    for (engine, hardware, users), tpots in speeds.items():
        for repeat, tpot in enumerate(tpots):
            planned = simulated.cell(len(cells), engine, users, repeat=repeat, hardware=hardware)
            data = simulated.serve(
                simulated.Speed(tpot or 1, tpot or 1), users, requests=max(12, 2 * users)
            )
            cells.append((planned, data if tpot else simulated.failed()))
    return simulated.save(folder, cells)


def ruling(results: ResultSet, **test: Any) -> Ruling:
    raw = {"id": "x", "aspect": "", "claim": "", "test": [test]}
    return judge_claims([msgspec.convert(raw, Claim)], results)[0]


def ratio(results: ResultSet, **changes: Any) -> Ruling:
    test: dict[str, Any] = {
        "kind": "ratio",
        "metric": "output_tokens_per_s",
        "of": {"engine": "paged"},
        "over": {"engine": "quant"},
        "at_least": 1.25,
    }
    return ruling(results, **{**test, **changes})


def built_in(results: ResultSet) -> dict[str, Ruling]:
    return {each.claim.id: each for each in judge_claims(built_in_claims(), results)}


# ---------------------------------------------------------------- ratios


@pytest.mark.parametrize(
    ("paged_ms", "verdict"), [(10, "holds"), (16, "does not hold"), (30, "does not hold")]
)
def test_a_ratio_is_held_against_its_bound(tmp_path: Path, paged_ms: float, verdict: str) -> None:
    """quant takes 18 ms: ratios 1.8, 1.125 and 0.6."""
    results = run(tmp_path / "r", {("paged", GPU, 1): [paged_ms], ("quant", GPU, 1): [18]})
    found = ratio(results)
    assert found.verdict == verdict
    (finding,) = found.tests[0].findings
    assert finding.value == pytest.approx(18 / paged_ms, rel=0.02)
    assert finding.cells == ("000-paged-c1", "001-quant-c1")


def test_an_interval_that_holds_the_bound_settles_nothing(tmp_path: Path) -> None:
    results = run(tmp_path / "r", {("paged", GPU, 1): [8, 10, 12], ("quant", GPU, 1): [12.5] * 3})
    found = ratio(results)
    assert found.verdict == "cannot be tested here"
    (finding,) = found.tests[0].findings
    assert finding.low is not None and finding.high is not None
    assert finding.low < 1.25 < finding.high
    assert "more repeats would tell" in markdown([found], results)


def test_a_claim_must_hold_everywhere_or_anywhere(tmp_path: Path) -> None:
    results = run(
        tmp_path / "r",
        {
            ("paged", GPU, 1): [10],
            ("quant", GPU, 1): [11],
            ("paged", GPU, 4): [10],
            ("quant", GPU, 4): [20],
        },
    )
    everywhere, anywhere = ratio(results), ratio(results, holds_in="any")
    assert (everywhere.verdict, anywhere.verdict) == ("does not hold", "holds")
    assert everywhere.tests[0].findings[0].value == pytest.approx(1.1, rel=0.05)
    assert anywhere.tests[0].findings[0].value == pytest.approx(2, rel=0.05)


def test_only_like_is_compared_with_like(tmp_path: Path) -> None:
    results = run(tmp_path / "r", {("paged", GPU, 1): [10], ("quant", CPU, 1): [18]})
    found = ratio(results)
    assert found.verdict == "cannot be tested here"
    assert found.tests[0].reason == "no two cells agree in model, hardware, workload and load"


def test_machines_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path / "a", {("paged", CPU, 1): [10]})
    monkeypatch.setattr(simulated, "MACHINE", {"cpu": {"model": "Other"}})
    second = run(tmp_path / "b", {("quant", CPU, 1): [18]})
    assert ratio(ResultSet([*first, *second])).verdict == "cannot be tested here"


def test_more_gpus_against_one(tmp_path: Path) -> None:
    results = run(tmp_path / "r", {("quant", GPU, 1): [10], ("quant", TWO, 1): [12.5]})
    found = built_in(results)["runner-slows-with-gpus"]
    assert found.verdict == "holds"
    assert found.tests[0].findings[0].value == pytest.approx(0.8, rel=0.02)
    assert "cuda:0,1" in found.tests[0].findings[0].where


def test_cells_that_failed_prove_nothing(tmp_path: Path) -> None:
    results = run(tmp_path / "r", {("paged", GPU, 1): [0], ("quant", GPU, 1): [18]})
    found = ratio(results)
    assert found.verdict == "cannot be tested here"
    assert found.tests[0].reason == "no believable cell of paged has output_tokens_per_s"


# ---------------------------------------------------------------- figures, and what runs


def test_a_figure_and_its_share_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated, "MACHINE", {**simulated.MACHINE, "gpus": GPUS})
    results = run(tmp_path / "r", {("quant", GPU, 1): [10]})
    rss = float(results.to_pandas()["peak_rss_bytes"][0])
    figure = {"kind": "figure", "metric": "peak_rss_bytes", "of": {"engine": "quant"}}
    assert ruling(results, **figure, below=rss + 1).verdict == "holds"
    assert ruling(results, **figure, below=rss).verdict == "does not hold"
    share = ruling(results, **figure, below=1, per="gpu_memory_bytes")
    assert share.tests[0].findings[0].value == pytest.approx(rss / 10_000_000)


def test_a_figure_that_nobody_measures_cannot_be_tested(tmp_path: Path) -> None:
    results = run(tmp_path / "r", {("paged", GPU, 1): [10]})
    found = built_in(results)["paging-cuts-waste"]
    assert found.verdict == "cannot be tested here"
    assert found.tests[0].reason == "no believable cell of paged has kv_waste_share"
    unknown = ruling(results, kind="figure", metric="kv_waist", of={"engine": "paged"}, below=1)
    assert unknown.tests[0].reason.startswith("no metric is called kv_waist; ")
    unheard = ruling(
        results, kind="figure", metric="energy_j_per_token", of={"engine": "paged"}, below=1
    )
    assert unheard.tests[0].reason == "no believable cell of paged has energy_j_per_token"


@pytest.mark.parametrize(
    ("quant", "verdict"), [([10], "holds"), ([0], "does not hold"), ([], "cannot be tested here")]
)
def test_what_runs_and_what_fails(tmp_path: Path, quant: list[float], verdict: str) -> None:
    results = run(tmp_path / "r", {("paged", CPU, 4): [10], ("quant", CPU, 4): quant})
    assert built_in(results)["both-serve-the-api"].verdict == verdict


def test_one_test_that_fails_sinks_the_claim(tmp_path: Path) -> None:
    results = run(tmp_path / "r", {("quant", CPU, 1): [10]})
    figure = {"kind": "figure", "metric": "tpot_s_p50", "of": {}}
    tests = [{**figure, "below": below} for below in (1.0, 0.001)]
    raw = {"id": "x", "aspect": "", "claim": "", "test": tests}
    (found,) = judge_claims([msgspec.convert(raw, Claim)], results)
    assert [test.verdict for test in found.tests] == ["holds", "does not hold"]
    assert found.verdict == "does not hold"


# ---------------------------------------------------------------- documents and commands


@pytest.mark.parametrize("which", ["contest", "troubled", "empty"])
def test_every_run_gets_a_ruling_on_every_claim(which: str, request: pytest.FixtureRequest) -> None:
    results = ResultSet([]) if which == "empty" else request.getfixturevalue(which)
    rulings = judge_claims(built_in_claims(), results)
    assert len(rulings) == 11
    if which == "empty":
        assert {each.verdict for each in rulings} == {"cannot be tested here"}
    for each in rulings:
        for test in each.tests:
            assert test.reason or test.findings
    document = json.loads(json_text(rulings))
    assert [claim["id"] for claim in document] == [each.claim.id for each in rulings]
    text = markdown(rulings, results)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 13 and len({row.count("|") for row in rows}) == 1


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    run(tmp_path / "r", {("paged", GPU, 16): [10], ("quant", GPU, 16): [20]})
    written = tmp_path / "claims.md", tmp_path / "claims.json"
    result = bench("claims", tmp_path / "r", "--markdown", written[0], "--json", written[1])
    assert result.exit_code == 0, result.output
    assert written[0].read_text().startswith("# Claims: 2 holds, 1 does not hold")
    verdicts = {each["id"]: each["verdict"] for each in json.loads(written[1].read_text())}
    assert verdicts["server-wins-at-16"] == verdicts["both-serve-the-api"] == "holds"
    assert verdicts["runner-starts-at-once"] == "does not hold"
    assert verdicts["runner-wins-alone"] == "cannot be tested here"
    assert "16 concurrent" in result.stdout and "holds" in result.stdout


def test_ones_own_claims_take_the_place_of_ours(tmp_path: Path) -> None:
    run(tmp_path / "r", {("mine", CPU, 1): [10]})
    (tmp_path / "mine.toml").write_text(
        '[[claim]]\nid = "quick"\naspect = "pace"\nclaim = "mine is quick"\n'
        '[[claim.test]]\nkind = "figure"\nmetric = "tpot_s_p50"\n'
        'of = {engine = "mine", users = "<=4"}\nbelow = 0.02\n'
    )
    result = bench("claims", tmp_path / "r", "--claims", tmp_path / "mine.toml")
    assert result.exit_code == 0, result.output
    assert "mine is quick" in result.stdout and "10.0 ms" in result.stdout
    assert "Transformers" not in result.stdout


def test_the_claims_are_a_report_format(tmp_path: Path) -> None:
    run(tmp_path / "r", {("quant", CPU, 1): [10]})
    result = bench("report", tmp_path / "r", "--format", "claims", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/claims.md").read_text().startswith("# Claims: 1 holds")
