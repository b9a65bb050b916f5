"""Registers the built-in workloads and the locust driver. Imports neither numpy nor locust."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from enginebench import hookimpl
from enginebench.types import Workload
from enginebench_workloads.conversations import ConversationsWorkload
from enginebench_workloads.dataset import DatasetWorkload
from enginebench_workloads.fixed import FixedWorkload
from enginebench_workloads.lengths import LengthsWorkload
from enginebench_workloads.selftest import selftest
from enginebench_workloads.shared_prefix import SharedPrefixWorkload
from enginebench_workloads.trace import TraceWorkload
from enginebench_workloads.worker_command import worker

__all__ = ["enginebench_commands", "enginebench_driver_command", "enginebench_workloads"]


@hookimpl
def enginebench_workloads() -> Sequence[Workload]:
    return [
        FixedWorkload(),
        LengthsWorkload(),
        SharedPrefixWorkload(),
        DatasetWorkload(),
        TraceWorkload(),
        ConversationsWorkload(),
    ]


@hookimpl
def enginebench_commands() -> Sequence[click.Command]:
    return [selftest, worker]


@hookimpl
def enginebench_driver_command() -> Sequence[str]:
    return [sys.executable, "-m", "enginebench_workloads.driver"]
