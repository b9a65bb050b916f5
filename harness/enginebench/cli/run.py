"""`bench run`: reads the options and plans; `enginebench.cli.measure` does the rest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginebench.cli.measure import NewRun, ResumedRun, measure
from enginebench.cli.plan_options import plan_options, raw_options
from enginebench.errors import UnknownNameError, UsageError
from enginebench.executor import Executor
from enginebench.local_executor import Local
from enginebench.options import RawOptions, merge_options, parse_options
from enginebench.plan_file import read_plan_file
from enginebench.plugins import PluginManager, executors

if TYPE_CHECKING:
    from enginebench.plan import Planned

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options of `bench run` that do not shape the plan."""

    plan: Path | None
    out: Path
    resume: Path | None
    retry_failed: bool
    no_report: bool
    dry_run: bool
    executor: str


@click.command()
@plan_options
@click.option(
    "--plan",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A plan.toml with the options above; the command line wins.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    help="Where the Run folder is made. [runs]",
)
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Go on with this Run folder at its first cell that is not measured.",
)
@click.option("--retry-failed", is_flag=True, help="With --resume: failed cells once more, too.")
@click.option("--no-report", is_flag=True, help="Leave the report out.")
@click.option(
    "--executor",
    metavar="NAME",
    default=Local.name,
    help="Where cells are measured: local, or what a plugin adds (ray). [local]",
)
@click.option("--dry-run", is_flag=True, help="Only print the cells.")
@click.pass_context
def run(ctx: click.Context, /, **values: Any) -> None:
    """Measure engines on models, hardware and loads.

    \b
    bench run --engines all --concurrency 1,16
    bench run --engines paged --set paged.block_size=16,32 --repeats 3
    bench run --engines paged --rate 2,4,8 --arrival poisson
    bench run --url http://127.0.0.1:8000

    Exit code 0: all cells measured; 1: some failed; 2: nothing was started, the message says why.
    """
    manager: PluginManager = ctx.obj
    raw = raw_options(values)
    chosen = Chosen(**{key: values[key] for key in Chosen.__dataclass_fields__})
    if chosen.resume is not None:
        _check_resume(raw, chosen)
        resumed = ResumedRun(chosen.resume, chosen.retry_failed)
        ctx.exit(measure(resumed, manager, with_report=not chosen.no_report))
    if chosen.retry_failed:
        raise UsageError("--retry-failed goes with --resume RUN")
    executor = _executor(chosen.executor, manager)
    planned = _plan(raw, chosen, manager, executor)
    if chosen.dry_run:
        _print_cells(planned)
    else:
        new = NewRun(planned, _new_folder(planned, chosen), executor)
        ctx.exit(measure(new, manager, with_report=not chosen.no_report))


def _check_resume(raw: RawOptions, chosen: Chosen) -> None:
    typed = ["--" + key.replace("_", "-") for key in raw]
    typed += ["--plan"] * (chosen.plan is not None) + ["--dry-run"] * chosen.dry_run
    typed += ["--executor"] * (chosen.executor != Local.name)
    if typed:
        raise UsageError(
            f"--resume goes on with the plan of the Run as it is; leave out {', '.join(typed)}"
        )


def _executor(name: str, manager: PluginManager) -> Executor:
    known = {Local.name: Local(), **executors(manager)}
    if name not in known:
        raise UnknownNameError("executor", name, known, fix="Install the plugin that provides it")
    return known[name]


def _plan(raw: RawOptions, chosen: Chosen, manager: PluginManager, executor: Executor) -> Planned:
    from enginebench.plan import build_plan

    from_file = read_plan_file(chosen.plan) if chosen.plan is not None else {}
    options = parse_options(merge_options(from_file, raw))
    planned = build_plan(options, manager, executor.capacity())
    for out in planned.left_out:
        click.echo(f"left out: {out}", err=True)
    return planned


def _new_folder(planned: Planned, chosen: Chosen) -> Path:
    return chosen.out / f"{datetime.now():%Y%m%d-%H%M%S}-{planned.plan.name}"


def _print_cells(planned: Planned) -> None:
    for cell in planned.plan.cells:
        settings = [f"{key}={value}" for key, value in cell.spec.options.items()]
        click.echo("  ".join([cell.id, *settings]))
    for search in planned.plan.searches:
        click.echo(f"search  {search.id}")
    click.echo(f"{len(planned.plan.cells)} cells; nothing was started", err=True)
