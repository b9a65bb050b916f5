"""`bench why`: which cells it plans, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enginebench import execute
from enginebench.cli import main
from enginebench.execute import RunOutcome
from enginebench.hookspecs import hookimpl
from enginebench.plugins import Origin, PluginManager
from enginebench.results import CellStatus, ResultSet
from enginebench.run_folder import CellData, save_run
from enginebench.types import (
    Availability,
    Cell,
    Engine,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Option,
    Plan,
    Report,
    Request,
    Workload,
)


class Switched:
    """An engine with a technique for everywhere, one for GPUs, and a switch that is neither."""

    name, summary = "fast", ""
    options = (
        Option("cache", bool, True, "", technique="everywhere"),
        Option("graphs", bool, None, "", technique="gpu"),
        Option("verbose", bool, True, ""),
        Option("block", int, 16, ""),
    )

    def availability(self) -> Availability:
        return Availability(True)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        raise AssertionError("nothing is started here")


class Plain(Switched):
    name, options = "plain", (Option("verbose", bool, False, ""),)


class Fixed:
    name, summary, options = "fixed", "", ()

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        return [Request(0, "hello", 1)]


class Why:
    name, summary = "why", ""

    def render(self, results: ResultSet, folder: Path) -> Sequence[Path]:
        path = folder / "why.md"
        path.write_text(f"told of {len(results)} cells")
        return [path]


class Plugin:
    @hookimpl
    def enginebench_engines(self) -> Sequence[Engine]:
        return [Switched(), Plain()]

    @hookimpl
    def enginebench_workloads(self) -> Sequence[Workload]:
        return [Fixed()]

    @hookimpl
    def enginebench_reports(self) -> Sequence[Report]:
        return [Why()]

    @hookimpl
    def enginebench_resolve_model(self, name: str) -> ModelInfo:
        return ModelInfo(name, "gguf")


Call = Callable[..., Result]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """What was executed."""
    seen: list[Plan] = []

    def run_plan(plan: Plan, folder: Path, *_: object, command: str, **__: object) -> RunOutcome:
        seen.append(plan)
        done = {cell.id: CellData(CellStatus("ok")) for cell in plan.cells}
        save_run(folder, plan, done, command=command)
        return RunOutcome(folder, len(plan.cells), 0)

    monkeypatch.setattr(execute, "run_plan", run_plan)
    return seen


@pytest.fixture
def why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    manager = PluginManager()
    manager.add(Plugin(), Origin("fake", "fake-dist", "1.0"))

    def call(*arguments: str) -> Result:
        typed = ["why", *arguments, "--hardware", "cpu:1", "--concurrency", "2"]
        return CliRunner().invoke(main, typed, obj=manager)

    return call


def test_everything_on_then_each_technique_off(why: Call, plans: list[Plan]) -> None:
    result = why("fast", "--repeats", "2")
    assert result.exit_code == 0, result.output
    (plan,) = plans
    assert plan.name == "why-fast"
    assert [dict(cell.spec.options) for cell in plan.cells] == [
        {},
        {"cache": False},
        {"cache": False},
        {},
    ]
    assert "told of 4 cells" in result.output


def test_settings_hold_for_all_and_switches_can_be_chosen(why: Call, plans: list[Plan]) -> None:
    result = why("fast", "--techniques", "graphs,verbose", "--set", "fast.block=32")
    assert result.exit_code == 0, result.output
    assert [dict(cell.spec.options) for cell in plans[0].cells] == [
        {"block": 32},
        {"block": 32, "graphs": False},
        {"block": 32, "verbose": False},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fats",), "unknown engine 'fats'"),
        (("plain",), "plain names no technique that works there; its switches are: verbose"),
        (("plain", "--techniques", "verbose"), "verbose is off anyhow"),
        (("fast", "--techniques", "grahps"), "unknown switch of fast 'grahps'"),
        (("fast", "--techniques", "block"), "unknown switch of fast 'block'"),
        (("fast", "--techniques", "cache,cache"), "a name comes twice"),
        (("fast", "--techniques", "cache", "--set", "fast.cache=true"), "what is set"),
    ],
)
def test_what_makes_no_sense_is_refused(
    why: Call, plans: list[Plan], arguments: tuple[str, ...], message: str
) -> None:
    result = why(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert plans == []
