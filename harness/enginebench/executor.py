"""Where a plan's cells are measured: on this machine, or wherever a plugin's executor brings them.

This machine is the default (`enginebench.local_executor`). Others come from the hook
`enginebench_executors` and are chosen by `bench run --executor NAME`. They split a plan into
`units`: cells that are compared with each other stay together, on one machine; each unit becomes a
Run of its own, so that what `machine.json` says is true of all of its cells, and reports read the
Runs together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from enginebench.errors import UsageError
from enginebench.hardware import Capacity
from enginebench.new_cell import safe_name
from enginebench.progress import Listener
from enginebench.run_settings import RunSettings
from enginebench.types import Hardware, Plan

if TYPE_CHECKING:
    from enginebench.plugins import PluginManager

__all__ = ["Executor", "RunOutcome", "Unit", "units"]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended: cells by state, over the whole plan."""

    folder: Path
    ok: int
    failed: int


@runtime_checkable
class Executor(Protocol):
    """Measures plans somewhere. Constructing one starts nothing."""

    name: str
    summary: str

    def capacity(self) -> Capacity:
        """What `--hardware` is checked against; UsageError if there is nowhere to measure."""
        ...

    def run(
        self,
        plan: Plan,
        folder: Path,
        listener: Listener,
        *,
        command: str,
        settings: RunSettings,
        manager: PluginManager,
    ) -> RunOutcome:
        """Measure every cell; `folder`, which does not exist, becomes a Run or a folder of Runs."""
        ...


@dataclass(frozen=True, slots=True)
class Unit:
    """Cells of one model on one hardware entry, as a plan of their own."""

    name: str
    hardware: Hardware
    plan: Plan


def units(plan: Plan) -> Sequence[Unit]:
    """The plan's units in the order of their first cells; UsageError for plans with searches."""
    if plan.searches:
        raise UsageError(
            "searches (--rate saturate, --slo, --precision) add cells to a Run as it goes, and"
            " only the local executor does that; leave --executor out, or name the loads"
        )
    keys = list(dict.fromkeys((cell.spec.model, cell.spec.hardware) for cell in plan.cells))
    return [_unit(plan, number, *key) for number, key in enumerate(keys)]


def _unit(plan: Plan, number: int, model: str, hardware: Hardware) -> Unit:
    cells = tuple(
        cell for cell in plan.cells if (cell.spec.model, cell.spec.hardware) == (model, hardware)
    )
    name = f"{number:02d}-{safe_name(model)}-{safe_name(str(hardware).replace(':', ''))}"
    own = replace(plan, name=name, cells=cells, models={model: plan.models[model]})
    return Unit(name, hardware, own)
