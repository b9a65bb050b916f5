"""Registers the built-in workloads and the locust driver. Imports neither numpy nor locust."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from enginebench import hookimpl
from enginebench.types import Workload
from enginebench_workloads.fixed import FixedWorkload

__all__ = ["enginebench_driver_command", "enginebench_workloads"]


@hookimpl
def enginebench_workloads() -> Sequence[Workload]:
    return [FixedWorkload()]


@hookimpl
def enginebench_driver_command() -> Sequence[str]:
    return [sys.executable, "-m", "enginebench_workloads.driver"]
