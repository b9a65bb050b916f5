"""What an arm of `bench check --against` is: something that measures a portion into a Run folder.

`PlannedArm` measures it as planned, `ReplayedArm` with the engine options of an earlier Run, both
with the engines that are installed here. `CommandArm` has another `bench` measure it, that of
another commit, say.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from enginebench.checkout import OtherBench, guarded_exit
from enginebench.errors import EngineError, UsageError
from enginebench.execute import run_plan
from enginebench.machine import package_versions
from enginebench.plugins import PluginManager
from enginebench.portion import Portion
from enginebench.process import describe_exit, log_tail
from enginebench.progress import Silent
from enginebench.run_folder import RunFolder
from enginebench.types import EngineSpec, Plan

__all__ = ["Arm", "CommandArm", "PlannedArm", "ReplayedArm", "replayed_arm"]

Key = tuple[str, str, str]
LOG_LINES = 15
WRONG_USAGE = 2


class Arm(Protocol):
    """One side of a comparison."""

    def measure(self, portion: Portion, folder: Path) -> bool:
        """Measure `portion` into the new Run folder; whether it went well."""
        ...


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """Cells as they stand in the plan."""

    command: str
    manager: PluginManager | None = None

    def measure(self, portion: Portion, folder: Path) -> bool:
        """See `Arm.measure`."""
        outcome = run_plan(
            portion.plan, folder, Silent(), command=self.command, manager=self.manager
        )
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

    def measure(self, portion: Portion, folder: Path) -> bool:
        """See `Arm.measure`."""
        cells = [replace(cell, spec=self.specs[_key(cell.spec)]) for cell in portion.plan.cells]
        return self.planned.measure(portion.with_cells(cells), folder)


@dataclass(frozen=True, slots=True)
class CommandArm:
    """`bench run` of another environment, called as a user would; what it says goes to `log`."""

    bench: OtherBench
    log: Path

    def measure(self, portion: Portion, folder: Path) -> bool:
        """See `Arm.measure`. Raises UsageError if that version refuses the plan."""
        holder = folder.with_name(f".{folder.name}")
        shutil.rmtree(holder, ignore_errors=True)
        holder.mkdir()
        plan = holder / "plan.toml"
        plan.write_text(portion.toml(), encoding="utf-8")
        argv = [*self.bench.argv, "run", "--plan", str(plan), "--out", str(holder), "--no-report"]
        code = guarded_exit(argv, self.log, self.bench.env)
        run = self._only_run(holder, code)
        run.rename(folder)
        shutil.rmtree(holder)
        return code == 0

    def _only_run(self, holder: Path, code: int | None) -> Path:
        found = [path.parent for path in holder.glob("*/run.json")]
        if len(found) == 1 and not RunFolder.open(found[0]).unsealed():
            return found[0]
        tail = "\n".join(f"    {line}" for line in log_tail(self.log, LOG_LINES).splitlines())
        kind = UsageError if code == WRONG_USAGE else EngineError
        raise kind(f"`bench run` of {self.bench.name} {describe_exit(code)}:\n{tail}")


def replayed_arm(run: Path, plan: Plan, planned: PlannedArm) -> ReplayedArm:
    """The arm that replays `run` in the cells of `plan`.

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
        key: _only(run, key, found) for key in {_key(cell.spec): None for cell in plan.cells}
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
