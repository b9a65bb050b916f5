"""The executor that is there without any plugin: this machine."""

from __future__ import annotations

from pathlib import Path

from enginebench.executor import RunOutcome
from enginebench.hardware import Capacity, this_capacity
from enginebench.plugins import PluginManager
from enginebench.progress import Listener
from enginebench.run_settings import RunSettings
from enginebench.types import Plan

__all__ = ["Local"]


class Local:
    """This machine, one cell after another."""

    name = "local"
    summary = "This machine, one cell after another"

    def capacity(self) -> Capacity:
        """What this process may use."""
        return this_capacity()

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
        """`enginebench.execute.run_plan`."""
        from enginebench.execute import run_plan

        return run_plan(plan, folder, listener, command=command, settings=settings, manager=manager)
