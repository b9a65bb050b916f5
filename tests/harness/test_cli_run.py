"""`bench run`: what reaches the executor, what is printed, and which code it exits with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from enginebench import execute
from enginebench.cli import main
from enginebench.errors import UsageError
from enginebench.execute import RunOutcome
from enginebench.hookspecs import hookimpl
from enginebench.plugins import Origin, PluginManager
from enginebench.progress import Listener
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


class FakeEngine:
    summary = "a fake"

    def __init__(self, name: str, ok: bool = True) -> None:
        self.name, self._ok = name, ok
        self.options = (Option("speed", int, 1, "how fast"),)

    def availability(self) -> Availability:
        return Availability(self._ok, reason="torch is missing", fix="pip install torch")

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        raise AssertionError("nothing is started here")


class FakeWorkload:
    name, summary, options = "fixed", "", (Option("input_tokens", int, 8, ""),)

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        return [Request(0, "hello", 1)]


class FakeReport:
    name, summary = "html", ""

    def render(self, results: ResultSet, folder: Path) -> Sequence[Path]:
        (folder / "page.html").write_text(f"{len(results)} cells")
        return [folder / "page.html", folder / "more.css"]


class FakePlugin:
    @hookimpl
    def enginebench_engines(self) -> Sequence[Engine]:
        return [FakeEngine("alpha"), FakeEngine("beta"), FakeEngine("gamma", ok=False)]

    @hookimpl
    def enginebench_workloads(self) -> Sequence[Workload]:
        return [FakeWorkload()]

    @hookimpl
    def enginebench_reports(self) -> Sequence[Report]:
        return [FakeReport()]

    @hookimpl
    def enginebench_resolve_model(self, name: str) -> ModelInfo:
        return ModelInfo(name, "gguf")


class FakeExecutor:
    """Seals every cell of a plan; those of `fails` as failed."""

    def __init__(self, fails: str = "") -> None:
        self._fails = fails
        self.calls: list[dict[str, Any]] = []

    def run_plan(self, plan: Plan, folder: Path, listener: Listener, **rest: Any) -> RunOutcome:
        self.calls.append({"plan": plan, **rest})
        statuses = {cell.id: self._status(cell) for cell in plan.cells}
        cells = {each: CellData(status) for each, status in statuses.items()}
        save_run(folder, plan, cells, command=rest["command"])
        self._tell(listener, plan, folder, statuses)
        failed = sum(status.state == "failed" for status in statuses.values())
        return RunOutcome(folder, len(plan.cells) - failed, failed)

    def _status(self, cell: Cell) -> CellStatus:
        if cell.spec.engine == self._fails:
            return CellStatus("failed", "it died", log_tail="last words")
        return CellStatus("ok")

    def _tell(
        self, listener: Listener, plan: Plan, folder: Path, statuses: dict[str, CellStatus]
    ) -> None:
        listener.run_started(plan, folder)
        for cell in plan.cells:
            listener.cell_started(cell)
            listener.cell_finished(cell, statuses[cell.id])
        listener.run_finished(folder)


Bench = Callable[..., Result]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Calls `bench` in an empty folder, with the fake plugin alone."""
    monkeypatch.chdir(tmp_path)
    manager = PluginManager()
    manager.add(FakePlugin(), Origin("fake", "fake-dist", "1.0"))

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["run", "--hardware", "cpu:1", *arguments], obj=manager)

    return call


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> FakeExecutor:
    fake = FakeExecutor()
    monkeypatch.setattr(execute, "run_plan", fake.run_plan)
    return fake


def test_the_plan_is_measured_summed_up_and_reported(bench: Bench, executor: FakeExecutor) -> None:
    result = bench("--concurrency", "1,2", "--reuse-servers", "--name", "mine")
    assert result.exit_code == 0, result.output
    [run] = Path("runs").iterdir()
    assert run.name.endswith("-mine")
    assert (run / "report" / "page.html").read_text() == "4 cells"
    assert f"report: {run}/report/page.html" in result.stdout
    assert f"Run folder: {run}" in result.stdout
    assert "left out: gamma cannot run: torch is missing. Fix: pip install torch" in result.stderr
    [call] = executor.calls
    assert call["settings"].reuse_servers
    assert [(c.spec.engine, c.load.users) for c in call["plan"].cells] == [
        ("alpha", 1),
        ("alpha", 2),
        ("beta", 1),
        ("beta", 2),
    ]


def test_failed_cells_are_shown_and_exit_with_1(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "run_plan", FakeExecutor(fails="beta").run_plan)
    result = bench("--concurrency", "1", "--no-report")
    assert result.exit_code == 1
    assert "failed: 0001-beta-smollm2-135m-cpu1-c1-r0: it died\n    last words" in result.stderr
    assert "report:" not in result.stdout
    assert not list(Path("runs").glob("*/report"))


def test_dry_run_prints_cells_and_writes_nothing(bench: Bench, executor: FakeExecutor) -> None:
    result = bench("--dry-run", "--engines", "beta", "--set", "beta.speed=2,3", "--seed", "4")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "0000-beta-smollm2-135m-cpu1-c1-r0  speed=2",
        "0001-beta-smollm2-135m-cpu1-c1-r0  speed=3",
        "0002-beta-smollm2-135m-cpu1-c16-r0  speed=2",
        "0003-beta-smollm2-135m-cpu1-c16-r0  speed=3",
    ]
    assert not executor.calls
    assert not list(Path().iterdir())


def test_a_list_may_be_given_in_parts(bench: Bench, executor: FakeExecutor) -> None:
    twice = ("--concurrency", "4", "--concurrency", "8")
    result = bench("--dry-run", "--engines", "beta", *twice)
    assert [line.split("-")[-2] for line in result.stdout.splitlines()] == ["c4", "c8"]
    result = bench("--dry-run", "--engines", "beta", "--duration", "3", "--duration", "5")
    assert result.exit_code == 2 and "--duration takes one value, not 2: 3, 5" in result.stderr


def test_plan_file_is_overridden_by_the_command_line(bench: Bench, executor: FakeExecutor) -> None:
    Path("plan.toml").write_text('engines = "alpha"\nconcurrency = 3\nreuse_servers = true\n')
    result = bench("--plan", "plan.toml", "--concurrency", "5", "--out", "elsewhere")
    assert result.exit_code == 0, result.output
    [cell] = executor.calls[0]["plan"].cells
    assert (cell.spec.engine, cell.load.users) == ("alpha", 5)
    assert executor.calls[0]["settings"].reuse_servers
    assert len(list(Path("elsewhere").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "alpa"], "unknown engine 'alpa'; did you mean alpha"),
        (["--engines", "gamma"], "torch is missing. Fix: pip install torch"),
        (["--workload", "fixt"], "did you mean fixed"),
        (["--concurrency", "0"], "--concurrency '0'"),
        (["--concurrency", "two"], "--concurrency 'two'"),
        (["--hardware", "cpu:100000"], "cpu:100000"),
        (["--set", "alpha.sped=1"], "did you mean speed"),
        (["--set", "alpha"], "write ENGINE.OPTION=VALUE"),
        (["--output-tokens", "4"], "unknown option of fixed 'output_tokens'"),
        (["--plan", "none.toml"], "cannot read the plan none.toml"),
        (["--resume", "none", "--seed", "3"], "leave out --hardware, --seed"),
        (["--retry-failed"], "--retry-failed goes with --resume"),
        (["--no-such-option"], "No such option"),
        (["stray"], "stray"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(
    bench: Bench, executor: FakeExecutor, arguments: list[str], message: str
) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not executor.calls
    assert not list(Path().iterdir())


def test_resume_goes_on_with_the_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = FakeExecutor()
    monkeypatch.setattr(execute, "run_plan", begun.run_plan)
    bench("--name", "first", "--no-report")
    [run] = Path("runs").iterdir()
    seen: dict[str, Any] = {}

    def fake_resume(folder: Path, listener: Listener, **rest: Any) -> RunOutcome:
        seen.update(folder=folder, **rest)
        return RunOutcome(folder, 4, 0)

    monkeypatch.setattr(execute, "resume", fake_resume)
    manager = begun.calls[0]["manager"]
    typed = ["run", "--resume", str(run), "--retry-failed"]
    result = CliRunner().invoke(main, typed, obj=manager)
    assert result.exit_code == 0, result.output
    assert seen == {"folder": run, "retry_failed": True, "manager": manager}
    assert (run / "report" / "page.html").exists()


def test_ctrl_c_says_how_to_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(plan: Plan, folder: Path, listener: Listener, **rest: Any) -> RunOutcome:
        folder.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "run_plan", interrupted)
    result = bench()
    assert result.exit_code == 130
    assert "stopped; go on with: bench run --resume runs/" in result.stderr


def test_errors_of_the_executor_keep_their_exit_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(plan: Plan, folder: Path, listener: Listener, **rest: Any) -> RunOutcome:
        raise UsageError("the folder exists already")

    monkeypatch.setattr(execute, "run_plan", refuses)
    result = bench()
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        "Error: the folder exists already",
    )
