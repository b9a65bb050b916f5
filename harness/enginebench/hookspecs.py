"""The hooks. A plugin is a module in the entry point group `enginebench` that implements some.

Importing a plugin module must be cheap (no torch, numba, locust, pandas): all of them are loaded
when `bench` starts. Heavy imports belong into the process that an engine launches, or into the
body of a command.

    from enginebench import hookimpl

    @hookimpl
    def enginebench_engines():
        return [MyEngine()]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from enginebench.executor import Executor
from enginebench.gate import Gate
from enginebench.results import CellResult
from enginebench.search import Searcher
from enginebench.types import Calibrator, Engine, Flag, Metric, ModelInfo, Report, Workload

if TYPE_CHECKING:
    import click

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "enginebench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def enginebench_engines() -> Sequence[Engine]:
    """Engines that this plugin adds. Names are unique; a second one of a name is an error."""
    raise NotImplementedError


@hookspec
def enginebench_workloads() -> Sequence[Workload]:
    """Workloads that this plugin adds."""
    raise NotImplementedError


@hookspec
def enginebench_metrics() -> Sequence[Metric]:
    """Metrics that this plugin derives from raw records; columns are unique over all plugins."""
    raise NotImplementedError


@hookspec
def enginebench_flags(cell: CellResult, figures: Mapping[str, float | None]) -> Sequence[Flag]:
    """Reasons to doubt `cell`, whose metrics are `figures`; shown wherever its speed is."""
    raise NotImplementedError


@hookspec
def enginebench_reports() -> Sequence[Report]:
    """Report formats that this plugin adds (`bench report --format NAME`)."""
    raise NotImplementedError


@hookspec(firstresult=True)
def enginebench_resolve_model(name: str) -> ModelInfo | None:
    """What model `name` (registry name, path, hub id, `synthetic:NAME`) stands for.

    None passes to the next plugin. Raises ModelError for a model it knows but cannot use (not
    pulled yet, corrupt file). Must read headers only, never weights.
    """
    raise NotImplementedError


@hookspec
def enginebench_calibrators() -> Sequence[Calibrator]:
    """What measures ceilings for `bench calibrate`; only those that can run here."""
    raise NotImplementedError


@hookspec
def enginebench_executors() -> Sequence[Executor]:
    """Where else than on this machine cells can be measured (`bench run --executor NAME`)."""
    raise NotImplementedError


@hookspec
def enginebench_commands() -> Sequence[click.Command]:
    """Commands that this plugin adds to `bench`; heavy imports inside their bodies only."""
    raise NotImplementedError


@hookspec(firstresult=True)
def enginebench_gate() -> Gate | None:
    """What judges, for `bench check`, whether one arm is slower than the other."""
    raise NotImplementedError


@hookspec(firstresult=True)
def enginebench_searcher() -> Searcher | None:
    """What decides which cells a run adds as it goes (`--rate saturate`, `--precision`)."""
    raise NotImplementedError


@hookspec(firstresult=True)
def enginebench_driver_command() -> Sequence[str] | None:
    """What drives load: a command called with the path of a job file (see `enginebench.drive`)."""
    raise NotImplementedError
