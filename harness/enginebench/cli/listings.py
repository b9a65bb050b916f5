"""`bench engines|workloads|metrics`: what is installed, from where, and what can run here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import click
from rich.table import Table
from rich.text import Text

from enginebench import plugins
from enginebench.cli.output import output_console
from enginebench.errors import UnknownNameError
from enginebench.left_out import why_not
from enginebench.plugins import PluginManager, Provided
from enginebench.types import Engine, Option

__all__ = ["engines", "metrics", "workloads"]

T = TypeVar("T")


@click.command()
@click.argument("name", required=False)
@click.pass_obj
def engines(manager: PluginManager, name: str | None) -> None:
    """List engines and what can run here.

    With NAME, one engine with its options.
    """
    found = plugins.provided_engines(manager)
    if name is not None:
        _show_engine(_one("engine", name, found))
        return
    table = _table("engine", "version", "runs here", "what it is", "from")
    for each in found.values():
        state = each.thing.availability()
        table.add_row(
            each.thing.name,
            state.version or "",
            _runs_here(each.thing),
            each.thing.summary,
            str(each.origin),
        )
    output_console().print(table)
    _print_broken(manager)


@click.command()
@click.argument("name", required=False)
@click.pass_obj
def workloads(manager: PluginManager, name: str | None) -> None:
    """List workloads.

    With NAME, one workload with its options.
    """
    found = plugins.provided_workloads(manager)
    if name is not None:
        one = _one("workload", name, found)
        _show(one.thing.name, one.thing.summary, str(one.origin))
        _print_options(one.thing.name, one.thing.options)
        return
    table = _table("workload", "what it is", "from")
    for each in found.values():
        table.add_row(each.thing.name, each.thing.summary, str(each.origin))
    output_console().print(table)
    _print_broken(manager)


@click.command()
@click.pass_obj
def metrics(manager: PluginManager) -> None:
    """List the metrics: columns of result tables and reports."""
    table = _table("metric", "unit", "better", "what it is", "from")
    for each in plugins.provided_metrics(manager):
        for column in each.thing.columns:
            better = "" if column.better == "neither" else column.better
            table.add_row(column.name, column.unit, better, column.help, str(each.origin))
    output_console().print(table)
    _print_broken(manager)


def _one(kind: str, name: str, found: dict[str, Provided[T]]) -> Provided[T]:
    if name not in found:
        raise UnknownNameError(kind, name, found)
    return found[name]


def _show_engine(item: Provided[Engine]) -> None:
    engine = item.thing
    _show(engine.name, engine.summary, str(item.origin))
    click.echo(f"runs here: {_runs_here(engine)}")
    _print_options(engine.name, engine.options)


def _show(name: str, summary: str, origin: str) -> None:
    click.echo(f"{name}: {summary}\nfrom: {origin}")


def _runs_here(engine: Engine) -> Text:
    out = why_not(engine)
    if out is None:
        by_name = engine.availability().by_name_only
        return Text("yes, by name" if by_name else "yes", style="green")
    return Text(f"no: {out.reason}" + (f"; {out.fix}" if out.fix else ""), style="yellow")


def _print_options(target: str, options: Sequence[Option]) -> None:
    if not options:
        click.echo(f"{target} takes no options")
        return
    table = _table(f"--set {target}.", "type", "default", "what it is")
    for option in options:
        table.add_row(option.name, _type(option), _default(option), option.help)
    output_console().print(table)


def _type(option: Option) -> str:
    return " | ".join(map(str, option.choices)) or option.type.__name__


def _default(option: Option) -> str:
    if option.default is None:
        return "required" if option.required else ""
    return str(option.default)


def _table(*titles: str) -> Table:
    table = Table()
    for title in titles:
        table.add_column(title)
    return table


def _print_broken(manager: PluginManager) -> None:
    for broken in _unique(manager.broken):
        click.echo(
            f"broken plugin {broken.origin.plugin!r} of {broken.origin}: {broken.error}", err=True
        )


def _unique(found: Iterable[T]) -> Iterable[T]:
    return dict.fromkeys(found)
