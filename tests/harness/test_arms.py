"""Arms: what is replayed of a Run, which Runs are refused, how another `bench` is called."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginebench import arms
from enginebench.arms import CommandArm, PlannedArm, replayed_arm
from enginebench.checkout import OtherBench
from enginebench.errors import EngineError, UsageError
from enginebench.execute import RunOutcome
from enginebench.machine import package_versions
from enginebench.plan_file import read_plan_file
from enginebench.portion import Portion
from enginebench.run_folder import RunFolder, save_run
from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    OptionValue,
    Plan,
    WorkloadSpec,
)

MODELS = {"tiny": ModelInfo("tiny", "synthetic")}


def cell(index: int = 0, users: int = 1, engine: str = "echo", **options: OptionValue) -> Cell:
    spec = EngineSpec(engine, "tiny", Hardware(cpu_threads=1), options)
    load, budget = Load(users=users), Budget(requests=2)
    return Cell(index, spec, WorkloadSpec("fixed"), load, budget, 0, index, f"{index}-{users}")


def plan(*cells: Cell) -> Plan:
    return Plan("check", 0, cells, MODELS)


def portion(*cells: Cell) -> Portion:
    return Portion(plan(*cells), {"engines": ("echo",)})


def recorded(folder: Path, *cells: Cell, versions: dict[str, str] | None = None) -> Path:
    save_run(folder, plan(*cells), {}, versions=versions or package_versions())
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Every plan that was to be run."""
    plans: list[Plan] = []

    def note(plan: Plan, folder: Path, listener: object, **other: object) -> RunOutcome:
        plans.append(plan)
        return RunOutcome(folder, ok=0, failed=plan.cells[0].load.users == 13)

    monkeypatch.setattr(arms, "run_plan", note)
    return plans


def test_each_arm_measures_the_same_cell_with_its_own_options(
    tmp_path: Path, measured: list[Plan]
) -> None:
    mine = cell(users=4, itl_ms=9.0)
    here = PlannedArm("bench check")
    replayed = replayed_arm(recorded(tmp_path / "run", cell(itl_ms=5.0)), plan(mine), here)
    assert here.measure(portion(mine), tmp_path / "b")
    assert replayed.measure(portion(mine), tmp_path / "a")
    current, baseline = (each.cells for each in measured)
    assert current == (mine,)
    assert baseline == (replace(mine, spec=replace(mine.spec, options={"itl_ms": 5.0})),)
    assert list(replayed.differences) == []


def test_a_cell_that_failed_is_told(tmp_path: Path, measured: list[Plan]) -> None:
    here = PlannedArm("bench check")
    assert here.measure(portion(cell()), tmp_path / "a")
    assert not here.measure(portion(cell(users=13)), tmp_path / "b")


def test_versions_that_changed_are_told(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(), versions={**package_versions(), "torch": "1.0"})
    (difference,) = replayed_arm(run, plan(cell()), PlannedArm("")).differences
    assert difference.startswith("torch 1.0, now ")


def test_what_the_run_does_not_hold_cannot_be_replayed(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(engine="quant"))
    with pytest.raises(UsageError, match=r"echo with tiny on cpu:1.*holds quant with tiny"):
        replayed_arm(run, plan(cell()), PlannedArm(""))


def test_two_sets_of_options_cannot_be_replayed(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(itl_ms=1), cell(1, itl_ms=2))
    with pytest.raises(UsageError, match=r"several sets of options \(echo itl_ms=1, echo"):
        replayed_arm(run, plan(cell()), PlannedArm(""))


def test_several_loads_of_one_spec_are_one_spec(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(itl_ms=1), cell(1, 4, itl_ms=1))
    assert len(replayed_arm(run, plan(cell()), PlannedArm("")).specs) == 1


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_arms import cell, plan
from enginebench.results import CellStatus
from enginebench.run_folder import CellData, save_run
_, run, _, file, _, out, no_report = sys.argv
assert (run, no_report) == ("run", "--no-report")
print("asked for", Path(file).read_text())
{then}
data = {{}} if {pending} else {{cell().id: CellData(CellStatus({state!r}))}}
save_run(Path(out) / "20260101-000000-check", plan(cell()), data)
sys.exit({state!r} != "ok")
"""


def other(folder: Path, *, state: str = "ok", then: str = "", pending: bool = False) -> CommandArm:
    """A `bench` of another version, which writes a Run without measuring it."""
    tests = str(Path(__file__).parent)
    text = SCRIPT.format(tests=tests, then=then, state=state, pending=pending)
    bench = OtherBench("main", (sys.executable, "-P", "-c", text), dict(os.environ))
    return CommandArm(bench, folder / "other.log")


def test_another_bench_gets_the_options_as_a_plan(tmp_path: Path) -> None:
    arm, given = other(tmp_path), Portion(plan(cell()), {"set": ('echo.x="1",2', "é.y=3")})
    assert arm.measure(given, tmp_path / "000-00")
    assert RunFolder.open(tmp_path / "000-00").plan.cells == (cell(),)
    asked = (tmp_path / "other.log").read_text().removeprefix("asked for ")
    (tmp_path / "plan.toml").write_text(asked)
    assert read_plan_file(tmp_path / "plan.toml") == given.options
    assert {path.name for path in tmp_path.iterdir()} == {"000-00", "other.log", "plan.toml"}


def test_a_cell_that_failed_there_is_told(tmp_path: Path) -> None:
    assert not other(tmp_path, state="failed").measure(portion(cell()), tmp_path / "a")


@pytest.mark.parametrize(
    ("arm", "error", "message"),
    [
        ({"then": "sys.exit('unknown key')"}, EngineError, "ended with code 1:\n.*unknown key"),
        ({"then": "sys.exit(2)"}, UsageError, "`bench run` of main ended with code 2"),
        ({"then": "import os; os.kill(os.getpid(), 9)"}, EngineError, "was killed by SIGKILL"),
        ({"pending": True}, EngineError, "ended with code 0"),
    ],
)
def test_another_bench_that_breaks_off_is_no_measurement(
    tmp_path: Path, arm: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        other(tmp_path, **arm).measure(portion(cell()), tmp_path / "a")
    assert not (tmp_path / "a").exists()
