"""Runs a plan: cell after cell into a Run folder that can be resumed at any moment.

    outcome = run_plan(plan, Path("runs/first"), Silent(), command="bench run ...")
    outcome = resume(Path("runs/first"), Silent())
    outcome.failed          # cells that were sealed as failed; the others went on

On Ctrl-C, a crash or SIGKILL every process that was started ends; sealed cells stay as they are,
and `resume` goes on at the first unsealed one. Computes no statistics, knows no engine by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from enginebench import plugins
from enginebench.ceilings import kept_ceilings
from enginebench.cell_run import Bench, measure
from enginebench.errors import UnknownNameError, UsageError
from enginebench.executor import RunOutcome
from enginebench.hardware import Capacity, this_capacity
from enginebench.machine import fingerprint, package_versions
from enginebench.plugins import PluginManager
from enginebench.progress import Listener
from enginebench.revision import revision
from enginebench.run_folder import RunFolder
from enginebench.run_settings import RunSettings
from enginebench.searching import pursue
from enginebench.server_slot import ServerSlot
from enginebench.types import Cell, Hardware, Plan

__all__ = ["RunOutcome", "resume", "run_plan"]


def run_plan(
    plan: Plan,
    folder: Path,
    listener: Listener,
    *,
    command: str,
    settings: RunSettings | None = None,
    manager: PluginManager | None = None,
) -> RunOutcome:
    """Measure every cell of `plan` into `folder`, which must not exist yet.

    Raises UsageError before anything is written or started, StoreError when the disk is full.
    """
    settings = settings or RunSettings()
    bench = _bench(plan, listener, settings, manager)
    run = RunFolder.create(
        folder,
        plan,
        command=command,
        settings=settings,
        machine=_machine(plan),
        versions=package_versions(),
        revision=revision(),
    )
    return _run_cells(run, plan.cells, bench, manager)


def resume(
    folder: Path,
    listener: Listener,
    *,
    retry_failed: bool = False,
    manager: PluginManager | None = None,
) -> RunOutcome:
    """Measure the cells of `folder` that are not sealed yet, by its own plan and settings.

    With `retry_failed` also those that failed. Raises UsageError if machine or packages are not
    those with which the run began: its cells could not be compared.
    """
    run = RunFolder.open(folder)
    bench = _bench(run.plan, listener, run.head.settings, manager)
    _check_unchanged(run)
    return _run_cells(run, run.unsealed(or_failed=retry_failed), bench, manager)


def _machine(plan: Plan) -> dict[str, Any]:
    """This machine, with the ceilings that `bench calibrate` measured of what the plan uses."""
    machine = fingerprint()
    entries = {cell.spec.hardware for cell in plan.cells}
    kept = {str(entry): kept_ceilings(machine, entry) for entry in sorted(entries, key=str)}
    ceilings = {entry: msgspec.to_builtins(found) for entry, found in kept.items() if found}
    return {**machine, "ceilings": ceilings}


def _run_cells(
    run: RunFolder, cells: Sequence[Cell], bench: Bench, manager: PluginManager | None
) -> RunOutcome:
    slot = ServerSlot()

    def measure_added(grown: RunFolder, added: Sequence[Cell], keep: bool) -> None:
        bench.listener.cells_added(grown.plan)
        for cell in added:
            measure(bench, cell, grown.cell(cell), slot, keep_server=keep)

    with run.locked():
        bench.listener.run_started(run.plan, run.path)
        try:
            for cell, following in zip_longest(cells, cells[1:]):
                same = following is not None and following.spec == cell.spec
                keep = bench.settings.reuse_servers and same
                measure(bench, cell, run.cell(cell), slot, keep_server=keep)
            for search in run.unfinished:
                run = pursue(run, search, plugins.searcher(manager), measure_added)
                slot.stop()
        finally:
            slot.stop()
        bench.listener.run_finished(run.path)
    return _outcome(run)


def _outcome(run: RunFolder) -> RunOutcome:
    states = [run.cell(cell).status().state for cell in run.plan.cells]
    return RunOutcome(run.path, states.count("ok"), states.count("failed"))


def _bench(
    plan: Plan, listener: Listener, settings: RunSettings, manager: PluginManager | None
) -> Bench:
    engines, workloads = plugins.engines(manager), plugins.workloads(manager)
    capacity = this_capacity()
    firsts = [search.first for search in plan.searches if search.first is not None]
    for cell in (*plan.cells, *firsts):
        _check_known("engine", cell.spec.engine, engines)
        _check_known("workload", cell.workload.name, workloads)
        _check_hardware(cell.spec.hardware, capacity)
    command = plugins.driver_command(manager)
    return Bench(engines, workloads, plan.models, command, settings, listener)


def _check_known(kind: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise UnknownNameError(kind, name, known, fix="Install the plugin that provides it")


def _check_hardware(hardware: Hardware, capacity: Capacity) -> None:
    if (hardware.cpu_threads or 0) > capacity.cores or set(hardware.gpus) - set(capacity.gpus):
        raise UsageError(
            f"the plan asks for {hardware}; this machine has {capacity.cores} usable cores and "
            f"{len(capacity.gpus)} usable GPUs. Run it where it was planned, or plan it anew"
        )


def _check_unchanged(run: RunFolder) -> None:
    before = _conditions(run.machine, run.versions)
    now = _conditions(fingerprint(), package_versions())
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UsageError(
            f"{run.path} was begun under other conditions ({'; '.join(changed)}), so its cells "
            "could not be compared; restore those, or start a new run"
        )


def _conditions(machine: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """What must stay the same in one Run."""
    cpu = machine.get("cpu", {})
    return {
        "CPU": cpu.get("model"),
        "usable cores": cpu.get("usable_cores"),
        "GPUs": [gpu.get("name") for gpu in machine.get("gpus", ())],
        "Python": machine.get("python"),
        **versions,
    }
