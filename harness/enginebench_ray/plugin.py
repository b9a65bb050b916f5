"""Registers the executor `ray`. Cheap: ray is imported when the executor is asked for something."""

from __future__ import annotations

from collections.abc import Sequence

from enginebench import hookimpl
from enginebench.executor import Executor
from enginebench_ray.executor import RayExecutor

__all__ = ["enginebench_executors"]


@hookimpl
def enginebench_executors() -> Sequence[Executor]:
    """The executor of this package."""
    return [RayExecutor()]
