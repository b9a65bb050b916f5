"""What an arm of `bench check --against` is: something that can measure one cell into a Run folder.

`PlannedArm` measures the cell as planned; `ReplayedArm` with the engine options of an earlier Run.
Both use the engines that are installed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from enginebench.errors import UsageError
from enginebench.execute import run_plan
from enginebench.machine import package_versions
from enginebench.plugins import PluginManager
from enginebench.progress import Silent
from enginebench.run_folder import RunFolder
from enginebench.types import Cell, EngineSpec, Plan

__all__ = ["Arm", "PlannedArm", "ReplayedArm", "replayed_arm"]

Key = tuple[str, str, str]


class Arm(Protocol):
    """One side of a comparison."""

    def measure(self, cell: Cell, folder: Path) -> bool:
        """Measure `cell` into the new Run folder; whether it went well."""
        ...


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """Cells of `plan` as they stand in it."""

    plan: Plan
    command: str
    manager: PluginManager | None = None

    def measure(self, cell: Cell, folder: Path) -> bool:
        """See `Arm.measure`."""
        alone = replace(self.plan, cells=(cell,))
        outcome = run_plan(alone, folder, Silent(), command=self.command, manager=self.manager)
        return outcome.failed == 0


@dataclass(frozen=True, slots=True)
class ReplayedArm:
    """The same cells with the specs that an earlier Run recorded.

    `differences` are versions that are not what they were in that Run: not the engines of then are
    measured, but those of now with the options of then.
    """

    planned: PlannedArm
    specs: Mapping[Key, EngineSpec]
    differences: Sequence[str]

    def measure(self, cell: Cell, folder: Path) -> bool:
        """See `Arm.measure`."""
        return self.planned.measure(replace(cell, spec=self.specs[_key(cell.spec)]), folder)


def replayed_arm(run: Path, planned: PlannedArm) -> ReplayedArm:
    """The arm that replays `run`.

    Raises UsageError unless the Run holds exactly one set of options for each engine, model and
    hardware of the plan.
    """
    recorded = RunFolder.open(run)
    found: dict[Key, list[EngineSpec]] = {}
    for cell in recorded.plan.cells:
        specs = found.setdefault(_key(cell.spec), [])
        if cell.spec not in specs:
            specs.append(cell.spec)
    replayed = {
        key: _only(run, key, found)
        for key in {_key(cell.spec): None for cell in planned.plan.cells}
    }
    return ReplayedArm(planned, replayed, _changed(recorded.versions, package_versions()))


def _key(spec: EngineSpec) -> Key:
    return spec.engine, spec.model, str(spec.hardware)


def _only(run: Path, key: Key, found: Mapping[Key, Sequence[EngineSpec]]) -> EngineSpec:
    what = "{} with {} on {}".format(*key)
    if key not in found:
        held = "; ".join("{} with {} on {}".format(*other) for other in found)
        raise UsageError(f"the plan has {what}, which {run} has not measured; it holds {held}")
    if len(found[key]) > 1:
        labels = ", ".join(spec.label for spec in found[key])
        raise UsageError(f"{run} measured {what} with several sets of options ({labels})")
    return found[key][0]


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> Sequence[str]:
    return [
        f"{name} {before.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
