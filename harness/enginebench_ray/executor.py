"""The executor `ray`: each unit of a plan is a Ray task that asks for the hardware it names.

    ray start --head --resources '{"bench": 1}'                  on one machine
    ray start --address HOST:6379 --resources '{"bench": 1}'     on each of the others
    bench run --executor ray --hardware cpu:8,cuda:0

A task takes all of a machine's `bench`, so that nothing else is measured there meanwhile; which
machine that is, Ray decides. The cluster is that of RAY_ADDRESS, else the one that runs here.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from enginebench.errors import BenchError, UsageError
from enginebench.executor import RunOutcome, Unit, units
from enginebench.hardware import Capacity
from enginebench.progress import Listener
from enginebench.run_settings import RunSettings
from enginebench.types import Hardware, Plan
from enginebench_ray.parcel import unpack
from enginebench_ray.remote import Assignment, measure_unit

if TYPE_CHECKING:
    from enginebench.plugins import PluginManager

__all__ = ["RayExecutor"]

CONNECT_S: Final = 10.0
EXCLUSIVE: Final = "bench"
_HOW: Final = "ray start --resources '{\"bench\": 1}' brings a machine in"

Resources = Mapping[str, float]


class RayExecutor:
    """See `enginebench.executor.Executor`. A Run for each unit lies in the folder that is made."""

    name = "ray"
    summary = "The machines of a Ray cluster, each measuring one unit of the plan at a time"

    def capacity(self) -> Capacity:
        """The most cores and the most GPUs that any machine has."""
        with _cluster() as machines:
            cores = max(int(machine.get("CPU", 0)) for machine in machines)
            gpus = max(int(machine.get("GPU", 0)) for machine in machines)
        return Capacity(cores, tuple(range(gpus)))

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
        """Hand all units to Ray, and unpack their Runs as they come back."""
        parts = units(plan)
        if folder.exists():
            raise UsageError(f"{folder} exists already; give another folder")
        with _cluster() as machines:
            for unit in parts:
                _check_fits(unit.hardware, machines)
            listener.run_started(plan, folder)
            failures = list(_measured(parts, Assignment(settings, command), folder, listener))
        if failures:
            raise BenchError(
                f"{len(failures)} of {len(parts)} units were not measured (Runs of the others are"
                f" in {folder}):\n" + "\n".join(failures)
            )
        listener.run_finished(folder)
        return _outcome(folder)


@contextmanager
def _cluster() -> Iterator[Sequence[Resources]]:
    """Connected to it: what each of its machines that may measure has."""
    try:
        import ray
    except ImportError:
        raise UsageError('ray is not installed; pip install "enginebench[ray]"') from None
    address = os.environ.get("RAY_ADDRESS", "auto")
    if not _somebody_listens(address):  # Ray would try for minutes
        raise UsageError(f"no Ray cluster answers at {address}; {_HOW}")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError:
        raise UsageError(f"no Ray cluster answers at {address}; {_HOW}") from None
    try:
        nodes: list[dict[str, Any]] = ray.nodes()
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        machines = [each for each in alive if each.get(EXCLUSIVE, 0) >= 1]
        if not machines:
            raise UsageError(
                f"none of the cluster's {len(alive)} machines has the resource {EXCLUSIVE!r},"
                f" which lets one unit at a time be measured there; {_HOW}"
            )
        yield machines
    finally:
        ray.shutdown()


def _somebody_listens(address: str) -> bool:
    """Whether HOST:PORT takes connections; other ways to write an address are Ray's to judge."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return True
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError:
        return False
    return True


def _measured(
    parts: Sequence[Unit], assignment: Assignment, folder: Path, listener: Listener
) -> Iterator[str]:
    """Runs all units; what went wrong with those that gave no Run."""
    import ray

    task = ray.remote(max_retries=0)(measure_unit)
    tasks = {
        task.options(**_demand(unit.hardware)).remote(unit.plan, assignment): unit for unit in parts
    }
    waiting = list(tasks)
    while waiting:
        (done, *_), waiting = ray.wait(waiting, num_returns=1)
        unit = tasks[done]
        try:
            parcel = ray.get(done)
        except ray.exceptions.RayError as error:
            yield f"{unit.name}: {_reason(error)}"
            continue
        unpack(parcel, folder / unit.name)
        _tell(unit, folder / unit.name, listener)


def _demand(hardware: Hardware) -> dict[str, Any]:
    """What a task asks Ray for: the machine, its cores, and its GPUs up to the last one named."""
    return {
        "num_cpus": hardware.cpu_threads or 1,
        "num_gpus": max(hardware.gpus, default=-1) + 1,
        "resources": {EXCLUSIVE: 1},
    }


def _check_fits(hardware: Hardware, machines: Sequence[Resources]) -> None:
    need = _demand(hardware)
    for machine in machines:
        if machine.get("CPU", 0) >= need["num_cpus"] and machine.get("GPU", 0) >= need["num_gpus"]:
            return
    has = "; ".join(f"{m.get('CPU', 0):g} cores, {m.get('GPU', 0):g} GPUs" for m in machines)
    raise UsageError(f"no machine of the Ray cluster has {hardware}; there are: {has}")


def _reason(error: Exception) -> str:
    """The last line of what happened there: the error without Ray's frames."""
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, BenchError) else error).strip().splitlines()[-1]


def _tell(unit: Unit, folder: Path, listener: Listener) -> None:
    from enginebench.run_folder import RunFolder

    run = RunFolder.open(folder)
    for cell in unit.plan.cells:
        listener.cell_started(cell)
        listener.cell_finished(cell, run.cell(cell).status())


def _outcome(folder: Path) -> RunOutcome:
    from enginebench.store import load

    states = [result.status.state for result in load(folder)]
    return RunOutcome(folder, states.count("ok"), states.count("failed"))
