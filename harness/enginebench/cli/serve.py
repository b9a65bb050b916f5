"""`bench serve`: one engine in the foreground, started exactly as `bench run` would."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import click

from enginebench.chosen_engine import choose_engine
from enginebench.cli.plan_options import engine_options
from enginebench.errors import EngineError, UsageError
from enginebench.plugins import PluginManager
from enginebench.types import Endpoint, Hardware, Launch

__all__ = ["serve"]


@click.command()
@click.argument("engine")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@engine_options
@click.pass_obj
def serve(
    manager: PluginManager,
    engine: str,
    port: int,
    model: str | None,
    hardware: str | None,
    settings: Sequence[str],
) -> None:
    """Serve MODEL with ENGINE on 127.0.0.1 until Ctrl-C.

    \b
    bench serve quant --model smollm2-135m --port 8000 --set threads=2
    """
    chosen = choose_engine(engine, model, hardware, settings, manager)
    launch = chosen.engine.launch(chosen.spec, chosen.model, port)
    if isinstance(launch, Endpoint):
        raise UsageError(f"{engine} runs already, at {launch.base_url}: there is nothing to start")
    _check_free(port)
    click.echo(
        f"{engine} serves {launch.model_name} on http://127.0.0.1:{port}/v1 "
        f"({chosen.spec.hardware}); Ctrl-C ends it",
        err=True,
    )
    _become(launch, chosen.spec.hardware)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used: {error.strerror}; choose another with --port"
            ) from error


def _become(launch: Launch, hardware: Hardware) -> None:
    """Replace this process: signals, exit code and output are then the engine's own."""
    from enginebench.machine import pick_cores
    from enginebench.server import hardware_env

    if hardware.cpu_threads is not None:
        os.sched_setaffinity(0, pick_cores(hardware.cpu_threads))
    env = {**os.environ, **hardware_env(hardware), **launch.env}
    try:
        os.execvpe(launch.argv[0], launch.argv, env)
    except OSError as error:
        raise EngineError(f"cannot start {launch.argv[0]}: {error.strerror}") from error
