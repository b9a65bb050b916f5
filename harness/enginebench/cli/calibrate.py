"""`bench calibrate`: measures what this machine can do at most, and keeps it."""

from __future__ import annotations

import click
from rich.table import Table

from enginebench.ceilings import Ceilings
from enginebench.cli.output import output_console
from enginebench.plugins import PluginManager

__all__ = ["calibrate"]

RESTLESS = 0.1
"""Rounds of an idle machine differ by less."""


@click.command()
@click.option("--hardware", metavar="HW", help="As in `bench run`; one cell's worth each.")
@click.pass_obj
def calibrate(manager: PluginManager, hardware: str | None) -> None:
    """Measure the ceilings of this machine: memory bandwidth and arithmetic.

    \b
    bench calibrate
    bench calibrate --hardware cpu:1,cpu:2

    Takes half a minute of an otherwise idle machine. `bench run` stores the result with each Run,
    reports say how near to it each cell came. Run it again when the machine has changed.
    """
    from enginebench import plugins
    from enginebench.calibrating import calibrate as measure
    from enginebench.ceilings import keep_ceilings
    from enginebench.hardware import default_hardware, parse_hardware, this_capacity

    capacity = this_capacity()
    entries = parse_hardware(hardware, capacity) if hardware else (default_hardware(capacity),)
    for entry in entries:
        found = measure(plugins.calibrators(manager), entry)
        path = keep_ceilings(found, entry)
        output_console().print(_table(found))
        if found.spread > RESTLESS:
            click.echo(
                f"rounds differ by {found.spread:.0%}: the machine was not idle; run it again when "
                "it is",
                err=True,
            )
        click.echo(f"kept in {path}")


def _table(ceilings: Ceilings) -> Table:
    table = Table("ceiling", "", title=f"{ceilings.hardware}, rounds within {ceilings.spread:.0%}")
    for size, rate in ceilings.read_bytes_per_s:
        table.add_row(f"read {size / 2**20:,.0f} MiB again and again", f"{rate / 1e9:,.1f} GB/s")
    for kind, rate in ceilings.operations_per_s.items():
        table.add_row(f"multiply and add {kind}", f"{rate / 1e9:,.0f} Gop/s")
    return table
