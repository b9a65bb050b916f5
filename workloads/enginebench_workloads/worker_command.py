"""`bench worker`: takes part in the load of a run on another machine."""

from __future__ import annotations

import subprocess
import sys

import click

from enginebench.errors import UsageError

__all__ = ["worker"]


@click.command()
@click.option("--join", "where", metavar="HOST:PORT", required=True, help="Where the run listens.")
@click.option("--once", is_flag=True, help="End after one cell instead of waiting for the next.")
@click.pass_context
def worker(ctx: click.Context, where: str, once: bool) -> None:
    """Take part in the load of `bench run --load-listen HOST:PORT --remote-workers N`.

    Waits for each of its cells, until Ctrl-C. Both sides need the same version of enginebench.
    """
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--join {where!r}: must be HOST:PORT, as in 10.0.0.5:5557")
    command = [sys.executable, "-m", "enginebench_workloads.load_worker", where]
    while True:
        code = subprocess.run(command, check=False).returncode
        if code or once:
            ctx.exit(code)
