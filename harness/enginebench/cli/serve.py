"""`bench serve`: one engine in the foreground, started exactly as `bench run` would."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import click

from enginebench.chosen_engine import choose_engine
from enginebench.errors import EngineError, UsageError
from enginebench.plugins import PluginManager
from enginebench.types import Endpoint, Hardware, Launch

__all__ = ["serve"]


ENGINE_RESTARTS: Final = 3


@click.command()
@click.argument("engine")
@click.argument("server_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    help="As in `bench run`; several times: loaded when a request names them. [smollm2-135m]",
)
@click.option("--hardware", metavar="HW", help="cpu:2, cuda:0, cuda:0,1 or cuda:0+cpu:8.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="OPTION=VALUE",
    help="An option of the engine; `bench engines` NAME.",
)
@click.pass_obj
def serve(
    manager: PluginManager,
    engine: str,
    server_options: Sequence[str],
    port: int,
    models: Sequence[str],
    hardware: str | None,
    settings: Sequence[str],
) -> None:
    """Serve MODEL with ENGINE on 127.0.0.1 until Ctrl-C.

    What follows `--` goes to the server's own command line: `-- --help` lists what it takes.

    \b
    bench serve quant --model smollm2-135m --port 8000 --set threads=2
    bench serve paged --model a.gguf --model b.gguf -- --model-idle-timeout 600
    """
    chosen = choose_engine(engine, models[0] if models else None, hardware, settings, manager)
    launch = chosen.engine.launch(chosen.spec, chosen.model, port)
    if isinstance(launch, Endpoint):
        raise UsageError(f"{engine} runs already, at {launch.base_url}: there is nothing to start")
    others = [
        choose_engine(engine, model, hardware, settings, manager).model.name for model in models[1:]
    ]
    launch = replace(launch, argv=_argv(launch, engine, others, server_options))
    _check_free(port)
    click.echo(
        f"{engine} serves {', '.join([launch.model_name, *others])} on http://127.0.0.1:{port}/v1 "
        f"({chosen.spec.hardware}); Ctrl-C ends it",
        err=True,
    )
    _become(launch, chosen.spec.hardware)


def _argv(
    launch: Launch, engine: str, others: Sequence[str], server_options: Sequence[str]
) -> tuple[str, ...]:
    """The server's command line. Where it serves for long, an engine that dies is built again."""
    if not launch.several_models:
        if others:
            raise UsageError(f"{engine} serves one model at a time: give --model once")
        return (*launch.argv, *server_options)
    more = ["--engine-restarts", str(ENGINE_RESTARTS)]
    for name in others:
        more += ["--model", name, "--served-model-name", name]
    return (*launch.argv, *more, *server_options)


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
