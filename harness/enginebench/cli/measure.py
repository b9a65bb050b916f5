"""A run from its plan to its report: executed, shown while it goes on, summed up at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginebench.cli.output import output_console
from enginebench.executor import Executor
from enginebench.local_executor import Local
from enginebench.plugins import PluginManager
from enginebench.progress import Listener
from enginebench.results import ResultSet
from enginebench.types import Flag

if TYPE_CHECKING:
    from enginebench.execute import RunOutcome
    from enginebench.plan import Planned

__all__ = ["NewRun", "ResumedRun", "measure"]

INTERRUPTED = 130
"""The shell's exit code for a command that Ctrl-C ended."""
LOG_LINES = 12


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to begin, where `executor` brings it."""

    planned: Planned
    folder: Path
    executor: Executor = field(default_factory=Local)

    def execute(self, listener: Listener, manager: PluginManager) -> RunOutcome:
        return self.executor.run(
            self.planned.plan,
            self.folder,
            listener,
            command=shlex.join(["bench", *sys.argv[1:]]),
            settings=self.planned.settings,
            manager=manager,
        )


@dataclass(frozen=True, slots=True)
class ResumedRun:
    """A run to go on with."""

    folder: Path
    retry_failed: bool

    def execute(self, listener: Listener, manager: PluginManager) -> RunOutcome:
        from enginebench.execute import resume

        return resume(self.folder, listener, retry_failed=self.retry_failed, manager=manager)


def measure(work: NewRun | ResumedRun, manager: PluginManager, *, with_report: bool) -> int:
    """Execute, show, report; returns the exit code."""
    from enginebench.display import display_for

    display = display_for(output_console())
    try:
        outcome = work.execute(display, manager)
    except KeyboardInterrupt:
        display.close()
        if work.folder.exists():
            click.echo(f"stopped; go on with: bench run --resume {work.folder}", err=True)
        return INTERRUPTED
    finally:
        display.close()
    _sum_up(outcome.folder, manager, with_report)
    return 1 if outcome.failed else 0


def _sum_up(folder: Path, manager: PluginManager, with_report: bool) -> None:
    from enginebench.cli.report import default_formats, render_reports
    from enginebench.result_table import result_table
    from enginebench.run_folder import RunFolder
    from enginebench.store import load

    results = load(folder)
    _print_failures(results)
    for run in results.runs:
        for found in RunFolder.open(run.folder).found.values():
            click.echo(found.sentence)
    doubts = _flags(results, manager)
    output_console().print(result_table(results, doubts))
    _print_doubts(doubts)
    _print_hint(results)
    if with_report:
        for path in render_reports(results, default_formats(manager), folder / "report"):
            click.echo(f"report: {path}")
    click.echo(f"Run folder: {folder}")


def _flags(results: ResultSet, manager: PluginManager) -> Mapping[str, Sequence[Flag]]:
    """Reasons to doubt the cells that were measured, by cell id."""
    from enginebench.plugins import flags, metrics

    known = metrics(manager)
    found = {}
    for result in results:
        if result.status.state == "ok":
            figures = {name: v for metric in known for name, v in metric.compute(result).items()}
            found[result.cell.id] = flags(result, figures, manager)
    return found


def _print_doubts(doubts: Mapping[str, Sequence[Flag]]) -> None:
    for cell, flags in doubts.items():
        for flag in flags:
            click.echo(f"{flag.level}: {cell}: {flag.reason}", err=True)


def _print_hint(results: ResultSet) -> None:
    if not any(run.machine.get("ceilings") for run in results.runs):
        click.echo("`bench calibrate` once, and later runs tell how near their limit they are")


def _print_failures(results: ResultSet) -> None:
    for result in results:
        if result.status.state == "failed":
            click.echo(f"failed: {result.cell.id}: {result.status.error}", err=True)
            for line in result.status.log_tail.splitlines()[-LOG_LINES:]:
                click.echo(f"    {line}", err=True)
