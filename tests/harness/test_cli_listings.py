"""`bench engines|workloads|metrics|report`, plugins' own commands, and how errors look."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from enginebench.cli import main
from enginebench.errors import EngineError
from enginebench.hookspecs import hookimpl
from enginebench.plugins import BrokenPlugin, Origin, PluginManager
from enginebench.results import ResultSet
from enginebench.run_folder import save_run
from enginebench.types import (
    Availability,
    Budget,
    Cell,
    Endpoint,
    Engine,
    EngineSpec,
    Hardware,
    Launch,
    Load,
    Metric,
    MetricInfo,
    ModelInfo,
    Option,
    Plan,
    Report,
    WorkloadSpec,
)

OPTIONS = (
    Option("block_size", int, 16, "tokens in a block"),
    Option("dtype", str, "f32", "of the weights", choices=("f32", "bf16")),
)


class FakeEngine:
    def __init__(self, name: str, state: Availability, options: Sequence[Option] = ()) -> None:
        self.name, self.summary, self.options, self._state = name, f"is {name}", options, state

    def availability(self) -> Availability:
        return self._state

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return "too big" if "70b" in model.name else None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch | Endpoint:
        if spec.options.get("url"):
            return Endpoint("http://elsewhere", "m")
        return Launch(("no-such-program-anywhere", str(port), str(spec.options)), model.name)


class FakeMetric:
    columns = (MetricInfo("speed_tps", "tokens/s", "higher", "how fast"),)

    def compute(self, cell: object) -> dict[str, float | None]:
        return {"speed_tps": 1.0}


class FakeReport:
    def __init__(self, name: str) -> None:
        self.name, self.summary = name, ""

    def render(self, results: ResultSet, folder: Path) -> Sequence[Path]:
        path = folder / f"out.{self.name}"
        path.write_text(" ".join(each.run.name for each in results))
        return [path]


@click.command()
def greet() -> None:
    """Say hello."""
    raise EngineError("it is not polite")


class FakePlugin:
    @hookimpl
    def enginebench_engines(self) -> Sequence[Engine]:
        return [
            FakeEngine("alpha", Availability(True, version="9.1"), OPTIONS),
            FakeEngine("beta", Availability(False, reason="no torch", fix="pip install torch")),
            FakeEngine(
                "gamma", Availability(True), [Option("url", str, None, "where", required=True)]
            ),
        ]

    @hookimpl
    def enginebench_metrics(self) -> Sequence[Metric]:
        return [FakeMetric()]

    @hookimpl
    def enginebench_reports(self) -> Sequence[Report]:
        return [FakeReport("html"), FakeReport("csv")]

    @hookimpl
    def enginebench_commands(self) -> Sequence[click.Command]:
        return [greet]

    @hookimpl
    def enginebench_resolve_model(self, name: str) -> ModelInfo:
        return ModelInfo(name, "gguf")


@pytest.fixture
def manager() -> PluginManager:
    manager = PluginManager()
    manager.add(FakePlugin(), Origin("fake", "fake-dist", "1.0"))
    return manager


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with two Runs of one pending cell each."""
    spec = EngineSpec("alpha", "m", Hardware(cpu_threads=1))
    cell = Cell(0, spec, WorkloadSpec("w"), Load(users=1), Budget(1), 0, 0, "0000-alpha")
    for name in ("first", "second"):
        plan = Plan(name, 0, (cell,), {"m": ModelInfo("m", "gguf")})
        save_run(tmp_path / "runs" / name, plan, {})
    return tmp_path / "runs"


def bench(manager: PluginManager, *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), obj=manager)


def test_engines_says_what_can_run_and_what_to_type(manager: PluginManager) -> None:
    result = bench(manager, "engines")
    rows = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if "│" in line}
    assert "9.1" in rows["alpha"]
    assert "yes" in rows["alpha"]
    assert "fake-dist 1.0" in rows["alpha"]
    assert "no: no torch; pip install torch" in rows["beta"]
    assert "--set gamma.url=VALUE" in rows["gamma"]


def test_one_engine_shows_its_options(manager: PluginManager) -> None:
    shown = bench(manager, "engines", "alpha").stdout
    assert "alpha: is alpha\nfrom: fake-dist 1.0\nruns here: yes" in shown
    assert "block_size" in shown
    assert "f32 | bf16" in shown
    assert "takes no options" in bench(manager, "engines", "beta").stdout
    assert "required" in bench(manager, "engines", "gamma").stdout


def test_broken_plugins_are_listed(manager: PluginManager) -> None:
    manager.broken.append(BrokenPlugin(Origin("bad", "bad-dist", "2"), "ImportError: no x"))
    for listing in ("engines", "workloads", "metrics"):
        result = bench(manager, listing)
        assert result.exit_code == 0
        assert "broken plugin 'bad' of bad-dist 2: ImportError: no x" in result.stderr


def test_metrics_are_listed_by_column(manager: PluginManager) -> None:
    [row] = [line for line in bench(manager, "metrics").stdout.splitlines() if "speed_tps" in line]
    assert "higher" in row
    assert "how fast" in row


@pytest.mark.parametrize("kind", ["engines", "workloads"])
def test_unknown_names_exit_with_2(manager: PluginManager, kind: str) -> None:
    result = bench(manager, kind, "alpa")
    assert result.exit_code == 2
    assert "unknown" in result.stderr


def test_reports_are_rendered_into_the_run(manager: PluginManager, runs: Path) -> None:
    result = bench(manager, "report", str(runs / "first"))
    assert result.stdout.splitlines() == [str(runs / "first" / "report" / "out.html")]
    assert (runs / "first" / "report" / "out.html").read_text() == "first"


def test_several_runs_and_formats_into_a_folder(manager: PluginManager, runs: Path) -> None:
    both = [str(runs / "first"), str(runs / "second")]
    out = runs.parent / "made" / "here"
    result = bench(manager, "report", *both, "--format", "csv,html", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "out.csv": "first second",
        "out.html": "first second",
    }


class SloReport(FakeReport):
    def render(self, results: ResultSet, folder: Path) -> Sequence[Path]:
        path = folder / "slo.txt"
        path.write_text(" ".join(str(run.slo) for run in results.runs))
        return [path]


class SloPlugin:
    @hookimpl
    def enginebench_reports(self) -> Sequence[Report]:
        return [SloReport("slo")]


@pytest.mark.parametrize(("typed", "seen"), [([], "None"), (["--slo", "ttft=1s"], "ttft=1s")])
def test_an_slo_reaches_the_report(
    manager: PluginManager, runs: Path, typed: list[str], seen: str
) -> None:
    manager.add(SloPlugin(), Origin("slo", "slo-dist", "1.0"))
    result = bench(manager, "report", str(runs / "first"), "--format", "slo", *typed)
    assert Path(result.stdout.strip()).read_text() == seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{runs}/first", "--format", "cvs"], "did you mean csv"),
        (["{runs}/first", "--format", "csv,"], "a name is empty"),
        (["{runs}/none"], "no folder"),
        (["{runs}/first", "--slo", "tft=1s"], "did you mean ttft"),
        (["{runs}/first", "--out", "{runs}/first/run.json"], "cannot write the report"),
        ([], "Missing argument"),
    ],
)
def test_bad_report_calls_exit_with_2(
    manager: PluginManager, runs: Path, arguments: list[str], message: str
) -> None:
    result = bench(manager, "report", *(text.format(runs=runs) for text in arguments))
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["alpa"], 2, "did you mean alpha"),
        (["beta"], 2, "beta cannot run: no torch. Fix: pip install torch"),
        (["gamma"], 2, "needs the option 'url'"),
        (["gamma", "--set", "url=x"], 2, "runs already, at http://elsewhere"),
        (["alpha", "--model", "x-70b"], 2, "alpha cannot run x-70b with cpu:1: too big"),
        (["alpha", "--set", "block_size=1,2"], 2, "give one value"),
        (["alpha", "--set", "beta.block_size=1"], 2, "is not for alpha"),
        (["alpha", "--hardware", "cpu:1,cpu"], 2, ""),
        (["alpha", "--port", "0"], 2, "--port"),
        (["alpha", "--set", "block_size=8"], 1, "cannot start no-such-program-anywhere"),
    ],
)
def test_serve_refuses(
    manager: PluginManager,
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cores: None)
    place = [] if "--hardware" in arguments else ["--hardware", "cpu:1"]
    result = bench(manager, "serve", *arguments, *place)
    assert result.exit_code == code, result.output
    assert message in result.stderr


def test_plugins_commands_are_there_and_their_errors_are_ours(manager: PluginManager) -> None:
    assert "greet" in bench(manager, "--help").stdout
    result = bench(manager, "greet")
    assert (result.exit_code, result.stderr) == (1, "Error: it is not polite\n")


def test_a_plugin_cannot_take_an_own_command() -> None:
    class Thief:
        @hookimpl
        def enginebench_commands(self) -> Sequence[click.Command]:
            return [click.Command("run")]

    manager = PluginManager()
    manager.add(Thief(), Origin("thief", "thief-dist", "1"))
    result = bench(manager, "--help")
    assert result.exit_code == 2
    assert "thief-dist 1 adds a command 'run'" in result.stderr


def test_bugs_keep_their_traceback(manager: PluginManager) -> None:
    result = bench(manager, "engines", "alpha")
    assert result.exception is None
    manager.hook.enginebench_engines = None
    assert isinstance(bench(manager, "engines").exception, AttributeError)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from enginebench.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numba', 'pandas', 'pyarrow', 'locust', 'matplotlib', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == "[]\n"
    assert "run " in result.stdout
    assert time.monotonic() - started < 10
