"""The group `bench`: its own commands, those of plugins, and how errors are shown.

A BenchError becomes one message and its exit code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from enginebench import __version__, plugins
from enginebench.errors import BenchError, UsageError

__all__ = ["BenchGroup", "main"]

OWN_COMMANDS = {
    "run": "enginebench.cli.run",
    "report": "enginebench.cli.report",
    "tables": "enginebench.cli.tables",
    "calibrate": "enginebench.cli.calibrate",
    "check": "enginebench.cli.check",
    "why": "enginebench.cli.why",
    "engines": "enginebench.cli.listings",
    "workloads": "enginebench.cli.listings",
    "metrics": "enginebench.cli.listings",
    "serve": "enginebench.cli.serve",
    "chat": "enginebench.cli.chat",
}


class _Shown(click.ClickException):
    """A BenchError on its way to the terminal."""

    def __init__(self, error: BenchError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]


class BenchGroup(click.Group):
    """Loads a command when it is asked for; plugins come after the built-in ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*OWN_COMMANDS, *_plugin_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in OWN_COMMANDS:
            command: click.Command = getattr(import_module(OWN_COMMANDS[name]), name)
            return command
        return _plugin_commands(ctx).get(name)

    def invoke(self, ctx: click.Context) -> Any:
        with _shown():
            return super().invoke(ctx)


@contextmanager
def _shown() -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        raise _Shown(error) from error


def _plugin_commands(ctx: click.Context) -> dict[str, click.Command]:
    with _shown():
        provided = plugins.provided_commands(ctx.find_object(plugins.PluginManager))
        _check_commands(provided)
    return {name: item.thing for name, item in provided.items()}


def _check_commands(provided: Mapping[str, plugins.Provided[click.Command]]) -> None:
    for name, item in provided.items():
        if name in OWN_COMMANDS:
            raise UsageError(
                f"plugin {item.origin.plugin!r} of {item.origin} adds a command {name!r}, "
                "which is one of bench's own. Uninstall it"
            )


@click.group(
    cls=BenchGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="enginebench")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Put LLM inference engines on the same bench: same model, same load, same clock."""
    ctx.obj = ctx.obj or plugins.plugin_manager()
