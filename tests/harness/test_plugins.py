"""Plugins: what is found, where it comes from, and that a broken one harms nobody else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import click
import pluggy
import pytest

from enginebench import plugins
from enginebench.errors import ModelError, UsageError
from enginebench.hookspecs import hookimpl
from enginebench.plugins import PluginManager, plugin_manager
from enginebench.results import CellResult
from enginebench.types import Availability, Calibrator, Flag, Metric, MetricInfo, ModelInfo


class FakeEngine:
    summary = "answers nothing"
    options = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def availability(self) -> Availability:
        return Availability(ok=True)

    def refuses(self, model: object, hardware: object) -> None:
        return None

    def launch(self, spec: object, model: object, port: int) -> None:
        raise NotImplementedError


class FakeMetric:
    def __init__(self, column: str) -> None:
        self.columns = [MetricInfo(column, "s", "lower", "")]

    def compute(self, cell: object) -> dict[str, float | None]:
        return {self.columns[0].name: None}


class FakeSearcher:
    def next_step(self, *facts: object) -> None:
        """See `Searcher.next_step`."""


class FakeGate:
    def judge(self, *arms: object) -> None:
        raise NotImplementedError


class FakePlugin:
    """Everything that a plugin can provide, under names that no built-in has."""

    def __init__(self, name: str) -> None:
        self.name = name

    @hookimpl
    def enginebench_engines(self) -> list[FakeEngine]:
        return [FakeEngine(self.name)]

    @hookimpl
    def enginebench_workloads(self) -> list[object]:
        return [
            SimpleNamespace(name=self.name, summary="", options=(), requests=lambda cell, model: [])
        ]

    @hookimpl
    def enginebench_metrics(self) -> list[FakeMetric]:
        return [FakeMetric(self.name)]

    @hookimpl
    def enginebench_flags(self, cell: object, figures: object) -> list[Flag]:
        return [Flag("caution", self.name, "it is new")]

    @hookimpl
    def enginebench_calibrators(self) -> list[Calibrator]:
        return [Calibrator(self.name, ("true",))]

    @hookimpl
    def enginebench_reports(self) -> list[object]:
        return [SimpleNamespace(name=self.name, summary="", render=lambda results, folder: [])]

    @hookimpl
    def enginebench_resolve_model(self, name: str) -> ModelInfo | None:
        return ModelInfo(name, "remote") if name == f"{self.name}-model" else None

    @hookimpl
    def enginebench_executors(self) -> list[object]:
        here = SimpleNamespace(name=self.name, summary="", capacity=lambda: None, run=lambda: None)
        return [here]

    @hookimpl
    def enginebench_commands(self) -> list[click.Command]:
        return [click.Command(self.name)]

    @hookimpl
    def enginebench_gate(self) -> object | None:
        return FakeGate() if self.name == "judge" else None

    @hookimpl
    def enginebench_searcher(self) -> object | None:
        return FakeSearcher() if self.name == "searcher" else None

    @hookimpl
    def enginebench_driver_command(self) -> list[str] | None:
        return [self.name, "drive"] if self.name == "driver" else None


@pytest.fixture
def empty_manager() -> PluginManager:
    return PluginManager()


def add(manager: PluginManager, plugin: object, distribution: str = "dist-a") -> None:
    manager.add(plugin, plugins.Origin("plug", distribution, "1.0"))


def test_every_hook_is_reached() -> None:
    manager = plugin_manager(FakePlugin("nova"))
    assert plugins.engines(manager)["nova"].summary == "answers nothing"
    assert plugins.workloads(manager)["nova"].name == "nova"
    assert plugins.reports(manager)["nova"].name == "nova"
    assert plugins.commands(manager)["nova"].name == "nova"
    assert plugins.executors(manager)["nova"].name == "nova"
    assert "nova" in [c.name for metric in plugins.metrics(manager) for c in metric.columns]
    assert plugins.resolve_model("nova-model", manager).format == "remote"
    assert "nova" in [each.name for each in plugins.calibrators(manager)]
    alone = PluginManager()
    add(alone, FakePlugin("nova"))
    assert [flag.name for flag in plugins.flags(cast(CellResult, None), {}, alone)] == ["nova"]


def test_every_hook_specified_is_tested_above() -> None:
    specified = {name for name in vars(PluginManager().hook) if name.startswith("enginebench_")}
    assert specified == {name for name in vars(FakePlugin) if name.startswith("enginebench_")}


def test_driver_command_is_the_first_given(empty_manager: PluginManager) -> None:
    with pytest.raises(UsageError, match="no plugin provides a load driver"):
        plugins.driver_command(empty_manager)
    add(empty_manager, FakePlugin("other"), "dist-a")
    add(empty_manager, FakePlugin("driver"), "dist-b")
    assert plugins.driver_command(empty_manager) == ["driver", "drive"]


def test_the_gate_is_the_first_given(empty_manager: PluginManager) -> None:
    with pytest.raises(UsageError, match="no plugin judges Runs"):
        plugins.gate(empty_manager)
    add(empty_manager, FakePlugin("other"), "dist-a")
    add(empty_manager, FakePlugin("judge"), "dist-b")
    assert isinstance(plugins.gate(empty_manager), FakeGate)


def test_the_first_searcher_decides(empty_manager: plugins.PluginManager) -> None:
    with pytest.raises(UsageError, match="no plugin decides how searches go on"):
        plugins.searcher(empty_manager)
    add(empty_manager, FakePlugin("searcher"), "dist-b")
    assert isinstance(plugins.searcher(empty_manager), FakeSearcher)


def test_unknown_model_says_what_to_type(empty_manager: PluginManager) -> None:
    with pytest.raises(ModelError, match="bench models list"):
        plugins.resolve_model("nobody-knows-it", empty_manager)


def test_origin_is_kept(empty_manager: PluginManager) -> None:
    add(empty_manager, FakePlugin("nova"), "nova-dist")
    assert str(plugins.provided_engines(empty_manager)["nova"].origin) == "nova-dist 1.0"


@pytest.mark.parametrize(
    ("accessor", "kind"),
    [
        (plugins.engines, "engine"),
        (plugins.workloads, "workload"),
        (plugins.reports, "report"),
        (plugins.commands, "command"),
        (plugins.metrics, "metric column"),
    ],
)
def test_a_second_one_of_a_name_names_both(
    accessor: object, kind: str, empty_manager: PluginManager
) -> None:
    add(empty_manager, FakePlugin("nova"), "dist-a")
    add(empty_manager, FakePlugin("nova"), "dist-b")
    with pytest.raises(UsageError, match=rf"(?s){kind} 'nova'.*dist-a.*dist-b|dist-b.*dist-a"):
        accessor(empty_manager)  # type: ignore[operator]


def test_what_is_no_engine_is_refused_by_name(empty_manager: PluginManager) -> None:
    plugin = SimpleNamespace(enginebench_engines=hookimpl(lambda: ["a string"]))
    add(empty_manager, plugin, "bad-dist")
    with pytest.raises(UsageError, match=r"bad-dist 1\.0 returned 'a string', which is no engine"):
        plugins.engines(empty_manager)


def test_unknown_hook_is_refused(empty_manager: PluginManager) -> None:
    plugin = SimpleNamespace(enginebench_engine=hookimpl(lambda: ["x"]))
    with pytest.raises(pluggy.PluginValidationError, match="enginebench_engine"):
        add(empty_manager, plugin)
    assert not empty_manager.list_name_plugin()


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """A folder on sys.path with a distribution `broken-dist` whose plugins are written by tests."""
    info = tmp_path / "broken_dist-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-dist\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[enginebench]\nfaulty = faulty_plugin_module\n")
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    sys.modules.pop("faulty_plugin_module", None)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        (
            "from enginebench.hookspecs import hookimpl\n"
            "@hookimpl\ndef enginebench_engine(): return []",
            "enginebench_engine",
        ),
        (
            "from enginebench.hookspecs import hookimpl\n"
            "@hookimpl\ndef enginebench_engines(surplus): return []",
            "surplus",
        ),
        (
            "from enginebench.hookspecs import hookimpl\n"
            "@hookimpl\ndef enginebench_engines(): raise OSError('no disk')",
            "enginebench_engines: OSError: no disk",
        ),
    ],
)
def test_a_broken_plugin_is_listed_and_harms_nobody(
    installed: Path, source: str, error: str, empty_manager: PluginManager
) -> None:
    (installed / "faulty_plugin_module.py").write_text(source)
    add(empty_manager, FakePlugin("nova"))
    empty_manager.load_entry_points(distribution("broken-dist").entry_points)
    assert list(plugins.engines(empty_manager)) == ["nova"]
    assert list(plugins.engines(empty_manager)) == ["nova"]
    [broken] = empty_manager.broken
    assert str(broken.origin) == "broken-dist 2.0"
    assert error in broken.error
    assert "\n" not in broken.error


def test_fakes_are_what_they_claim_to_be() -> None:
    assert isinstance(FakeMetric("x"), Metric)
