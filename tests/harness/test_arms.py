"""The replayed arm: which specs it takes from a Run, and which Runs it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginebench import arms
from enginebench.arms import PlannedArm, replayed_arm
from enginebench.errors import UsageError
from enginebench.execute import RunOutcome
from enginebench.machine import package_versions
from enginebench.run_folder import save_run
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
    here = PlannedArm(plan(mine), "bench check")
    replayed = replayed_arm(recorded(tmp_path / "run", cell(itl_ms=5.0)), here)
    assert here.measure(mine, tmp_path / "b") and replayed.measure(mine, tmp_path / "a")
    current, baseline = (each.cells for each in measured)
    assert current == (mine,)
    assert baseline == (replace(mine, spec=replace(mine.spec, options={"itl_ms": 5.0})),)
    assert list(replayed.differences) == []


def test_a_cell_that_failed_is_told(tmp_path: Path, measured: list[Plan]) -> None:
    here = PlannedArm(plan(cell()), "bench check")
    assert here.measure(cell(), tmp_path / "a")
    assert not here.measure(cell(users=13), tmp_path / "b")


def test_versions_that_changed_are_told(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(), versions={**package_versions(), "torch": "1.0"})
    (difference,) = replayed_arm(run, PlannedArm(plan(cell()), "")).differences
    assert difference.startswith("torch 1.0, now ")


def test_what_the_run_does_not_hold_cannot_be_replayed(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(engine="quant"))
    with pytest.raises(UsageError, match=r"echo with tiny on cpu:1.*holds quant with tiny"):
        replayed_arm(run, PlannedArm(plan(cell()), ""))


def test_two_sets_of_options_cannot_be_replayed(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(itl_ms=1), cell(1, itl_ms=2))
    with pytest.raises(UsageError, match=r"several sets of options \(echo itl_ms=1, echo"):
        replayed_arm(run, PlannedArm(plan(cell()), ""))


def test_several_loads_of_one_spec_are_one_spec(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", cell(itl_ms=1), cell(1, 4, itl_ms=1))
    assert len(replayed_arm(run, PlannedArm(plan(cell()), "")).specs) == 1
