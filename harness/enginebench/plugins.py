"""Which plugins are installed, what each provides, and which of them are broken.

Every plugin comes in through the entry point group `enginebench`, the built-in ones too. One that
cannot be imported is kept in `PluginManager.broken` with its error, and `bench` goes on without it.
This module knows no engine, workload, metric or report by name.

    manager = plugin_manager(my_fake_plugin)     # tests add plugins that nobody installed
    engines(manager)["echo"].availability()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy

from enginebench import hookspecs
from enginebench.errors import ModelError, UsageError
from enginebench.executor import Executor
from enginebench.gate import Gate
from enginebench.results import CellResult
from enginebench.search import Searcher
from enginebench.types import Calibrator, Engine, Flag, Metric, ModelInfo, Report, Workload

if TYPE_CHECKING:
    import click

__all__ = [
    "BrokenPlugin",
    "Origin",
    "PluginManager",
    "Provided",
    "calibrators",
    "commands",
    "driver_command",
    "engines",
    "executors",
    "flags",
    "gate",
    "metrics",
    "plugin_manager",
    "provided_commands",
    "provided_engines",
    "provided_metrics",
    "provided_reports",
    "provided_workloads",
    "reports",
    "resolve_model",
    "workloads",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plugin comes from: entry point (or module) name, distribution and its version."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that is installed and cannot be used; `error` is one line that says why."""

    origin: Origin
    error: str


@dataclass(frozen=True, slots=True)
class Provided(Generic[T]):
    """Something that a plugin provides, and which plugin that was."""

    thing: T
    origin: Origin


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, which also remembers origins and what could not be loaded."""

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)
        self.origins: dict[str, Origin] = {}
        self.broken: list[BrokenPlugin] = []

    def load_entry_points(self, points: Iterable[EntryPoint]) -> None:
        """Import and register each; whatever goes wrong with one concerns only that one."""
        for point in sorted(points, key=lambda point: point.name):
            self._load_entry_point(point)

    def add(self, plugin: object, origin: Origin) -> None:
        """Register; raises PluginValidationError for unknown hooks and unknown arguments."""
        name = f"{origin.distribution}:{origin.plugin}"
        try:
            self.register(plugin, name)
            self.check_pending()
        except pluggy.PluginValidationError:
            if self.has_plugin(name):
                self.unregister(name=name)
            raise
        self.origins[name] = origin

    def provided(self, hook: str) -> Iterator[Provided[Any]]:
        """Everything that the plugins return from `hook`; one whose hook raises is broken."""
        for implementation in getattr(self.hook, hook).get_hookimpls():
            origin = self.origins[implementation.plugin_name]
            try:
                things = list(implementation.function())
            except Exception as error:  # noqa: BLE001 - foreign code; it is listed as broken
                self.broken.append(BrokenPlugin(origin, f"{hook}: {_one_line(error)}"))
                self.unregister(implementation.plugin)
                continue
            yield from (Provided(thing, origin) for thing in things)

    def _load_entry_point(self, point: EntryPoint) -> None:
        origin = _origin_of(point)
        try:
            self.add(point.load(), origin)
        except Exception as error:  # noqa: BLE001 - an import may raise anything; it is listed
            self.broken.append(BrokenPlugin(origin, _one_line(error)))


def plugin_manager(*extra: object) -> PluginManager:
    """The installed plugins and `extra` ones; the manager without extras is made once."""
    if not extra:
        return _installed()
    manager = _load()
    for number, plugin in enumerate(extra):
        name = getattr(plugin, "__name__", type(plugin).__name__)
        manager.add(plugin, Origin(f"{name}-{number}", f"{name} (not installed)", ""))
    return manager


def provided_engines(manager: PluginManager | None = None) -> dict[str, Provided[Engine]]:
    """Engines by name, with origins."""
    return _by_name("engine", "enginebench_engines", Engine, manager)


def provided_workloads(manager: PluginManager | None = None) -> dict[str, Provided[Workload]]:
    """Workloads by name, with origins."""
    return _by_name("workload", "enginebench_workloads", Workload, manager)


def provided_reports(manager: PluginManager | None = None) -> dict[str, Provided[Report]]:
    """Reports by name, with origins."""
    return _by_name("report", "enginebench_reports", Report, manager)


def provided_commands(manager: PluginManager | None = None) -> dict[str, Provided[click.Command]]:
    """Commands by name, with origins."""
    return _by_name("command", "enginebench_commands", object, manager)


def provided_metrics(manager: PluginManager | None = None) -> list[Provided[Metric]]:
    """Metrics with origins; no two of them have a column in common."""
    found = list((manager or plugin_manager()).provided("enginebench_metrics"))
    owners: dict[str, Provided[Metric]] = {}
    for item in found:
        _check_type("metric", item, Metric)
        for column in item.thing.columns:
            _claim("metric column", column.name, item, owners)
    return found


def engines(manager: PluginManager | None = None) -> dict[str, Engine]:
    """Engines by name."""
    return {name: item.thing for name, item in provided_engines(manager).items()}


def workloads(manager: PluginManager | None = None) -> dict[str, Workload]:
    """Workloads by name."""
    return {name: item.thing for name, item in provided_workloads(manager).items()}


def reports(manager: PluginManager | None = None) -> dict[str, Report]:
    """Reports by name."""
    return {name: item.thing for name, item in provided_reports(manager).items()}


def commands(manager: PluginManager | None = None) -> dict[str, click.Command]:
    """Commands by name."""
    return {name: item.thing for name, item in provided_commands(manager).items()}


def calibrators(manager: PluginManager | None = None) -> list[Calibrator]:
    """Everything that measures ceilings, by name."""
    found = _by_name("calibrator", "enginebench_calibrators", Calibrator, manager)
    return [item.thing for item in found.values()]


def metrics(manager: PluginManager | None = None) -> list[Metric]:
    """All metrics."""
    return [item.thing for item in provided_metrics(manager)]


def flags(
    cell: CellResult, figures: Mapping[str, float | None], manager: PluginManager | None = None
) -> Sequence[Flag]:
    """All reasons to doubt `cell`; those that make it invalid first."""
    told = (manager or plugin_manager()).hook.enginebench_flags(cell=cell, figures=figures)
    found = [flag for each in told for flag in each]
    return sorted(found, key=lambda flag: flag.level != "invalid")


def resolve_model(name: str, manager: PluginManager | None = None) -> ModelInfo:
    """What model `name` stands for; raises ModelError if no plugin knows or can use it."""
    info: ModelInfo | None = (manager or plugin_manager()).hook.enginebench_resolve_model(name=name)
    if info is None:
        raise ModelError(
            f"unknown model {name!r}: no plugin knows it. `bench models list` shows the known "
            "ones; a model that only a running server knows is written remote:NAME"
        )
    return info


def driver_command(manager: PluginManager | None = None) -> Sequence[str]:
    """The command that drives load, without its argument (the path of a job file)."""
    command: Sequence[str] | None = (manager or plugin_manager()).hook.enginebench_driver_command()
    if command is None:
        raise UsageError("no plugin provides a load driver; reinstall enginebench")
    return command


def gate(manager: PluginManager | None = None) -> Gate:
    """What judges two arms for `bench check`."""
    found: Gate | None = (manager or plugin_manager()).hook.enginebench_gate()
    if found is None:
        raise UsageError("no plugin judges Runs; reinstall enginebench")
    return found


def searcher(manager: PluginManager | None = None) -> Searcher:
    """What decides which cells a run adds as it goes."""
    found: Searcher | None = (manager or plugin_manager()).hook.enginebench_searcher()
    if found is None:
        raise UsageError("no plugin decides how searches go on; reinstall enginebench")
    return found


def executors(manager: PluginManager | None = None) -> dict[str, Executor]:
    """Executors by name, beside this machine itself."""
    found = _by_name("executor", "enginebench_executors", Executor, manager)
    return {name: item.thing for name, item in found.items()}


@cache
def _installed() -> PluginManager:
    return _load()


def _load() -> PluginManager:
    manager = PluginManager()
    manager.load_entry_points(entry_points(group=hookspecs.PROJECT))
    return manager


def _origin_of(point: EntryPoint) -> Origin:
    if point.dist is None:
        return Origin(point.name, point.value, "")
    return Origin(point.name, point.dist.name, point.dist.version)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _by_name(kind: str, hook: str, protocol: type, manager: PluginManager | None) -> dict[str, Any]:
    found: dict[str, Provided[Any]] = {}
    for item in (manager or plugin_manager()).provided(hook):
        _check_type(kind, item, protocol)
        _claim(kind, item.thing.name, item, found)
    return dict(sorted(found.items()))


def _check_type(kind: str, item: Provided[Any], protocol: type) -> None:
    if not isinstance(item.thing, protocol):
        raise UsageError(
            f"plugin {item.origin.plugin!r} of {item.origin} returned {item.thing!r}, which is no "
            f"{kind}: see enginebench.types.{protocol.__name__}"
        )


def _claim(kind: str, name: str, item: Provided[Any], owners: dict[str, Provided[Any]]) -> None:
    if (other := owners.get(name)) is not None:
        raise UsageError(
            f"two plugins provide the {kind} {name!r}: {other.origin.plugin!r} of {other.origin} "
            f"and {item.origin.plugin!r} of {item.origin}. Uninstall one of them"
        )
    owners[name] = item
