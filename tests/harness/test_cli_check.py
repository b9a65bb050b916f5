"""`bench check`: exit codes, documents, what is refused, and a whole check of the echo engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enginebench.cli import main
from enginebench.errors import EngineError, StoreError
from enginebench.gate import EXIT_CODES, GateRules, LooksTaken, Verdict
from enginebench.hookspecs import hookimpl
from enginebench.plugins import Origin, PluginManager
from enginebench.results import ResultSet
from enginebench.run_folder import save_run
from enginebench.types import Plan


class FakeJudgement:
    pairs_needed = None

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.headline = f"Verdict: {verdict}."

    def table(self) -> str:
        return "the table"

    def markdown(self) -> str:
        return "# markdown\n"

    def junit(self) -> str:
        return "<testsuites/>"

    def json(self) -> str:
        return "{}"


class FakeGate:
    """Says what it was told to, and keeps what it was given."""

    def __init__(self, verdict: Verdict, error: BaseException | None) -> None:
        self.verdict, self.error = verdict, error
        self.rules: GateRules | None = None

    def judge(
        self,
        baseline: ResultSet,
        current: ResultSet,
        rules: GateRules,
        looks: LooksTaken | None = None,
    ) -> FakeJudgement:
        self.rules = rules
        if self.error is not None:
            raise self.error
        return FakeJudgement(self.verdict)


class GatePlugin:
    def __init__(self, gate: FakeGate) -> None:
        self.gate = gate

    @hookimpl
    def enginebench_gate(self) -> FakeGate:
        return self.gate


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the empty Runs `a` and `b`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    for name in "ab":
        save_run(tmp_path / name, Plan(name, 0, (), {}), {})
    return tmp_path


def check(
    *arguments: str,
    verdict: Verdict = "pass",
    error: BaseException | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[Result, FakeGate]:
    manager, gate = PluginManager(), FakeGate(verdict, error)
    manager.add(GatePlugin(gate), Origin("gate", "test", ""))
    result = CliRunner().invoke(main, ["check", *arguments], obj=manager, env=dict(env or {}))
    return result, gate


BOTH = ("--baseline", "a", "--current", "b")


@pytest.mark.parametrize("verdict", EXIT_CODES)
def test_each_verdict_has_its_exit_code(runs: Path, verdict: Verdict) -> None:
    result, _ = check(*BOTH, verdict=verdict)
    expected = {"pass": 0, "regression": 1, "inconclusive": 3, "invalid": 4}
    assert result.exit_code == expected[verdict]
    assert result.stdout == f"the table\nVerdict: {verdict}.\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("an engine that cannot be stopped"), 4),
        (ZeroDivisionError("a bug"), 4),
        (KeyboardInterrupt(), 130),
        (StoreError("no such Run"), 2),
    ],
)
def test_nothing_but_a_regression_exits_like_one(
    runs: Path, error: BaseException, code: int
) -> None:
    result, _ = check(*BOTH, error=error)
    assert result.exit_code == code
    assert str(error) in result.output


def test_options_reach_the_judge(runs: Path) -> None:
    result, gate = check(
        *BOTH,
        "--fail-over",
        "5%",
        "--fail-over",
        "x=7%",
        "--metrics",
        "x,y",
        "--allow-machine-mismatch",
    )
    assert result.exit_code == 0, result.output
    assert gate.rules == GateRules(0.05, {"x": 0.07}, ("x", "y"), allow_machine_mismatch=True)


def test_documents_are_written_and_the_summary_is_added_to(runs: Path) -> None:
    (runs / "summary.md").write_text("before\n")
    result, _ = check(
        *BOTH,
        "--junit",
        "out/j.xml",
        "--json",
        "c.json",
        "--markdown",
        "m.md",
        verdict="regression",
        env={"GITHUB_STEP_SUMMARY": "summary.md"},
    )
    assert result.exit_code == 1
    assert (runs / "out/j.xml").read_text() == "<testsuites/>"
    assert (runs / "c.json").read_text() == "{}"
    assert (runs / "m.md").read_text() == "# markdown\n"
    assert (runs / "summary.md").read_text() == "before\n# markdown\n"


def test_a_document_that_cannot_be_written_is_no_regression(runs: Path) -> None:
    result, _ = check(*BOTH, "--junit", "a/run.json/x.xml")
    assert result.exit_code == 2
    assert "cannot write a/run.json/x.xml" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --baseline RUN and --current RUN"),
        (["--baseline", "a"], "give either"),
        (["--against", "a"], "give either"),
        ([*BOTH, "--plan", "p.toml"], "give either"),
        ([*BOTH, "--budget", "10m"], "give either"),
        (["--baseline", "a", "--current", "./a"], "are both a"),
        (["--baseline", "a", "--current", "nowhere"], "nowhere is no folder"),
        ([*BOTH, "--fail-over", "3"], "must be a percentage"),
        (["--against", "a", "--plan", "missing.toml"], "cannot read the plan"),
        (["--against", "a", "--plan", "p.toml", "--budget", "soon"], "must be a time"),
        (["--against", "a", "--plan", "p.toml"], "repeats has no place"),
        (["--against", "b1", "--plan", "q.toml"], "b1: it is no Run folder and no commit"),
        (["--against", ".", "--plan", "q.toml"], "a folder, but no Run folder"),
        (["--against", "a", "--plan", "q.toml", "--install", "make"], "are for a commit"),
        (["--resume", "a"], "a holds no check: it has no check.json"),
        (["--resume", "c"], "c holds no check"),
        (["--resume", "a", "--plan", "q.toml", "--missed", "9%"], "leave out --plan, options of"),
    ],
)
def test_wrong_usage_is_explained(runs: Path, arguments: list[str], message: str) -> None:
    (runs / "p.toml").write_text('engines = "echo"\nrepeats = 3\n')
    (runs / "q.toml").write_text('engines = "echo"\n')
    result, _ = check(*arguments)
    assert result.exit_code == 2
    assert message in result.output


PLAN = """
engines = "echo"
model = "synthetic:tiny"
concurrency = [1]
requests = 4
input_tokens = 8
output_tokens = 16
[set.echo]
itl_ms = {itl_ms}
"""


@pytest.mark.slow
def test_a_true_slowdown_of_a_real_server_is_caught(runs: Path) -> None:
    """The echo engine made 50% slower: known truth through the whole of the product."""
    (runs / "plan.toml").write_text(PLAN.format(itl_ms=10))
    (runs / "slow.toml").write_text(PLAN.format(itl_ms=15))
    bench = CliRunner()
    measured = bench.invoke(main, ["run", "--plan", "plan.toml", "--no-report"])
    assert measured.exit_code == 0, measured.output
    (run,) = (runs / "runs").iterdir()
    arguments = ["--against", str(run), "--plan", "slow.toml", "--metrics", "tpot_s_p50"]
    result = bench.invoke(main, ["check", *arguments, "--out", "pairs", "--json", "check.json"])
    assert result.exit_code == 1, result.output
    (found,) = json.loads((runs / "check.json").read_text())["comparisons"]
    assert found["low"] < 0.5 < found["high"]
    again = ["--baseline", "pairs/baseline", "--current", "pairs/current"]
    assert bench.invoke(main, ["check", *again, "--metrics", "tpot_s_p50"]).exit_code == 1
