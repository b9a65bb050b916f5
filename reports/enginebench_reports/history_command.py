"""`bench history`: a local store of Runs by commit and machine, and the trends of their figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginebench.errors import StoreError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from enginebench_reports.history import Trend

__all__ = ["history"]

PATH = click.Path(path_type=Path)
STORE = click.option(
    "--store",
    metavar="FILE",
    type=PATH,
    default=Path("history.sqlite"),
    help="The history. [history.sqlite]",
)
PIPE_WIDTH = 200
PLOT_KINDS = (".png", ".svg", ".pdf")


@click.group()
def history() -> None:
    """Keep Runs by commit and machine; show trends, and find the commit at which they step."""


@history.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option(
    "--commit", metavar="REF", help="File all of them under this commit. [as each Run tells]"
)
@STORE
def add(runs: Sequence[Path], commit: str | None, store: Path) -> None:
    """Add Runs, or folders of Runs; one that is in already stays as it is.

    \b
    bench history add runs/20260101-120000-ci
    bench history add checks/20260101-120000/baseline checks/20260101-120000/current
    """
    from enginebench.store import load
    from enginebench_reports.history_store import open_history

    results = load(*runs)
    with open_history(store, create=True) as opened:
        for added in opened.add(results, commit):
            what = "added" if added.is_new else "known already"
            left_out = f", {added.left_out} not to be believed" if added.left_out else ""
            click.echo(
                f"{added.run}: {what} under {added.revision[:10]}, {added.cells} cells{left_out}"
            )


@history.command()
@click.option(
    "--metric", "metrics", metavar="NAMES", help="Comma list. [throughput, TPOT p50, TTFT p50]"
)
@click.option(
    "--cell", "cells", metavar="TEXT", multiple=True, help="Only cells whose name holds TEXT."
)
@click.option(
    "--false-alarms",
    metavar="PERCENT",
    default="1%",
    help="How often a table without a change may show a step, at most. [1%]",
)
@click.option("--plot", metavar="FILE", type=PATH, help="Draw the trends: .png, .svg or .pdf.")
@click.option("--json", "json_file", metavar="FILE", type=PATH, help="Write everything as JSON.")
@STORE
def show(
    metrics: str | None,
    cells: Sequence[str],
    false_alarms: str,
    plot: Path | None,
    json_file: Path | None,
    store: Path,
) -> None:
    """Show the trend of every figure, and the commits at which one stepped.

    \b
    bench history show
    bench history show --metric tpot_s_p50 --cell "quant c1" --plot trend.png

    Machines are never mixed. A single trend is shown commit by commit.
    """
    from rich.console import Console

    from enginebench.gate_options import read_percent
    from enginebench_reports.gate import DEFAULT_METRICS
    from enginebench_reports.history import trends
    from enginebench_reports.history_documents import json_text, step_lines, table
    from enginebench_reports.history_store import open_history

    level = read_percent("--false-alarms", false_alarms)
    if plot is not None and plot.suffix not in PLOT_KINDS:
        raise UsageError(f"--plot {plot}: must end with {', '.join(PLOT_KINDS)}")
    names = DEFAULT_METRICS if metrics is None else _names(metrics)
    with open_history(store) as opened:
        entries = opened.entries(names)
    chosen = [entry for entry in entries if all(text in str(entry.place) for text in cells)]
    if not chosen:
        held = "\n".join(sorted({f"  {entry.place}" for entry in entries}))
        raise UsageError(
            f"{store} has no figure of {', '.join(names)} in such cells; it has\n{held}"
            if held
            else f"{store} has no figure of {', '.join(names)}"
        )
    found = trends(chosen, false_alarms=level)
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(file=sys.stdout, width=width).print(table(found))
    for line in step_lines(found):
        click.echo(line)
    if json_file is not None:
        _write(json_file, json_text(found).encode())
    if plot is not None:
        _write(plot, _drawn(found, plot.suffix))


def _drawn(found: Sequence[Trend], suffix: str) -> bytes:
    import io

    from enginebench_reports.history_documents import plot

    out = io.BytesIO()
    plot(found).savefig(out, format=suffix[1:], dpi=150, facecolor="white")
    return out.getvalue()


def _names(text: str) -> Sequence[str]:
    from enginebench_reports.compare_arms import metric_infos

    known = {name for name, info in metric_infos().items() if info.better != "neither"}
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise UnknownNameError("metric with a better direction", name, known)
    return names


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
