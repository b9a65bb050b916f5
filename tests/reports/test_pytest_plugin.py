"""The fixture `bench`: what fails a test, what does not, and that it costs nothing unless used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import simulated

from enginebench.errors import UsageError
from enginebench.pytest_plugin import BenchFixture
from enginebench.revision import git

pytest_plugins = ["pytester"]

PLAN = """
engines = "echo"
model = "synthetic:tiny"
concurrency = [1]
requests = 4
input_tokens = 8
output_tokens = 8
[set.echo]
itl_ms = 10
"""


def arm(folder: Path, tpot_ms: float, repeats: int = 6) -> None:
    cells = [
        (
            simulated.cell(repeat, "quant", 1, repeat=repeat),
            simulated.serve(simulated.Speed(50, tpot_ms, jitter=0.01), 1, requests=12, seed=repeat),
        )
        for repeat in range(repeats)
    ]
    simulated.save(folder, cells)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fast` and `slow`, and both with too few repeats to tell."""
    folder = tmp_path_factory.mktemp("runs")
    for name, tpot_ms in (("fast", 10.0), ("same", 10.0), ("slow", 12.0)):
        arm(folder / name, tpot_ms)
    for name in ("few", "fewer"):
        arm(folder / name, 10.0, repeats=2)
    return folder


def test_a_pass_gives_the_judgement(runs: Path, bench: BenchFixture) -> None:
    judgement = bench.assert_no_slower_run(runs / "fast", runs / "same", metrics="tpot_s_p50")
    assert judgement.verdict == "pass"


def test_a_regression_fails_the_test_and_shows_the_table(runs: Path, bench: BenchFixture) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)Regression: .*\| tpot_s_p50 \|"):
        bench.assert_no_slower_run(runs / "fast", runs / "slow", metrics="tpot_s_p50")


def test_limits_may_be_given_for_each_metric(runs: Path, bench: BenchFixture) -> None:
    limits = {"tpot_s_p50": "50%"}
    bench.assert_no_slower_run(runs / "fast", runs / "slow", metrics="tpot_s_p50", fail_over=limits)


def test_what_is_not_known_is_no_pass_unless_said_so(runs: Path, bench: BenchFixture) -> None:
    with pytest.raises(pytest.fail.Exception, match="Inconclusive"):
        bench.assert_no_slower_run(runs / "few", runs / "fewer")
    with pytest.raises(pytest.skip.Exception, match="Inconclusive"):
        bench.assert_no_slower_run(runs / "few", runs / "fewer", inconclusive="skip")
    judgement = bench.assert_no_slower_run(runs / "few", runs / "fewer", inconclusive="pass")
    assert judgement.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to compare with"),
        ({"against": "HEAD", "plan": "missing.toml"}, "cannot read the plan"),
        ({"against": "HEAD", "budget": "soon"}, "must be a time above 0"),
        ({"against": "HEAD", "fail_over": "3"}, "must be a percentage"),
        ({"against": "nowhere"}, "nowhere: it is no Run folder and no commit"),
    ],
)
def test_wrong_usage_is_explained(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    (tmp_path / "ci.toml").write_text(PLAN)
    given: dict[str, Any] = {"plan": tmp_path / "ci.toml", **arguments}
    with pytest.raises(UsageError, match=message):
        BenchFixture(tmp_path).assert_no_regression(**given)


def test_the_command_line_says_what_tests_leave_open(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("p.toml").write_text(PLAN)
    pytester.makepyfile("def test_speed(bench): bench.assert_no_regression(plan='p.toml')")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--bench-against", "v0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*UsageError: *v0: it is no Run folder and no commit*"])


def test_it_is_installed_and_costs_nothing_unless_used() -> None:
    (point,) = (each for each in entry_points(group="pytest11") if each.name == "enginebench")
    assert point.value == "enginebench.pytest_plugin"
    heavy = "{'numpy', 'pandas', 'pyarrow', 'rich', 'click', 'scipy', 'torch'}"
    program = f"import sys, enginebench.pytest_plugin; print({heavy} & sys.modules.keys())"
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.strip() == "set()"


@pytest.mark.slow
def test_this_project_is_no_slower_than_its_last_commit(
    bench: BenchFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it on ourselves: worktree, both arms in turn, judge. A loose limit and a budget
    of a few pairs, since what is tested is the gate, on whatever machine this is.
    """
    monkeypatch.chdir(Path(__file__).parent)
    if git("rev-parse", "HEAD") is None:
        pytest.skip("no git repository")
    plan = bench.folder / "ci.toml"
    plan.write_text(PLAN)
    judgement = bench.assert_no_regression(
        against="HEAD",
        plan=plan,
        metrics="tpot_s_p50",
        fail_over="100%",
        budget="8s",
        keep_environment=True,
        inconclusive="pass",
    )
    assert judgement.verdict in ("pass", "inconclusive")
    assert (bench.folder / "check-1" / "baseline" / "000-00" / "run.json").is_file()
    assert not (bench.folder / "check-1" / "checkout").exists()
