"""What a machine of the cluster does with a unit: measure it as `bench run` would, send the Run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from enginebench.run_settings import RunSettings
from enginebench.types import Plan
from enginebench_ray.parcel import pack

__all__ = ["Assignment", "measure_unit"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """How units are to be measured, and what the user typed."""

    settings: RunSettings
    command: str


def measure_unit(plan: Plan, assignment: Assignment) -> bytes:
    """The packed Run folder. Models are this machine's own, by the names that the plan has."""
    from enginebench.execute import run_plan
    from enginebench.plugins import plugin_manager, resolve_model
    from enginebench.progress import Silent

    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's word on threads; a cell says how many it wants
    manager = plugin_manager()
    models = {name: resolve_model(name, manager) for name in plan.models}
    with TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch) / "run"
        run_plan(
            replace(plan, models=models),
            folder,
            Silent(),
            command=assignment.command,
            settings=assignment.settings,
            manager=manager,
        )
        return pack(folder)
