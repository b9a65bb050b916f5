"""The command line of an engine's server: written by plugins, read by `serve_main`.

One place for both directions, so that what a plugin writes is what the server understands. Every
`Option` is a flag: `block_size` becomes `--block-size 16`, a bool `--cuda-graphs` or
`--no-cuda-graphs`. Imports nothing heavy: plugins use it when `bench` starts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginebench.errors import UsageError
from enginebench.types import EngineSpec, Launch, ModelInfo, Option, OptionValue
from enginebench_openai.layout import Layout, sees_gpu
from enginebench_openai.limits import Limits, PoolSettings
from enginebench_openai.logs import LogFormat
from enginebench_openai.server_arguments import add_server_arguments

__all__ = ["ServeArguments", "parse_arguments", "server_launch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeArguments:
    """What `serve_main` was asked for. `options` holds no None: an absent one has no default.

    `models` are pairs of what requests call a model, and where it is.
    """

    models: tuple[tuple[str, str], ...]
    host: str
    port: int
    api_key_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    slot_folder: Path | None
    limits: Limits
    pool: PoolSettings
    cors_origins: tuple[str, ...]
    log_format: LogFormat
    log_requests: bool
    log_prompts: bool
    drain_s: float
    engine_process: bool
    layout: Layout
    options: Mapping[str, OptionValue]


def server_launch(module: str, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
    """`python -m module --model ... --port ...` with a flag for each of the spec's options."""
    argv = [sys.executable, "-m", module, "--model", model.name, "--port", str(port)]
    argv += ["--served-model-name", spec.model, "--engine-restarts", "0"]  # a crash is a result
    for name, value in sorted(spec.options.items()):
        argv += _flags(name, value)
    return Launch(argv=tuple(argv), model_name=spec.model, several_models=True)


def _flags(name: str, value: OptionValue) -> Iterator[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
    else:
        yield f"--{flag}={value}"


def parse_arguments(
    argv: Sequence[str],
    *,
    program: str,
    description: str,
    options: Sequence[Option],
    layout: Callable[[Mapping[str, OptionValue]], Layout] = lambda options: Layout(),
) -> ServeArguments:
    """Read a server's command line; wrong ones end the process with code 2, as argparse does."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    add_server_arguments(parser)
    group = parser.add_argument_group("engine options")
    for option in options:
        _add_option(group, option)
    found = vars(parser.parse_args(argv))
    try:
        models = _models(found["model"], found["served_model_name"])
        given = {option.name: found[option.name] for option in options}
        values = {name: value for name, value in given.items() if value is not None}
        laid_out = layout(values)
        _check_together(found, models, laid_out)
    except (ValueError, UsageError) as error:
        parser.error(str(error))
    process = found["engine_process"]
    apart = len(models) > 1 or laid_out.apart or sees_gpu()
    return ServeArguments(
        models=models,
        host=found["host"],
        port=found["port"],
        api_key_file=found["api_key_file"],
        tls_cert=found["tls_cert"],
        tls_key=found["tls_key"],
        slot_folder=found["slot_save_path"],
        limits=Limits(
            max_body_bytes=int(found["max_body_mib"] * 2**20),
            max_queue=found["max_queue"],
            queue_timeout_s=found["queue_timeout"],
            request_timeout_s=found["request_timeout"],
            stall_timeout_s=found["stall_timeout"],
        ),
        pool=PoolSettings(
            max_loaded=_max_loaded(found),
            memory_bytes=_bytes(found["max_model_memory_gib"]),
            idle_timeout_s=found["model_idle_timeout"],
            restarts=found["engine_restarts"],
        ),
        cors_origins=tuple(found["cors_origin"]),
        log_format=found["log_format"],
        log_requests=found["log_requests"],
        log_prompts=found["log_prompts"],
        drain_s=found["drain_s"],
        engine_process=apart if process is None else process,
        layout=laid_out,
        options=values,
    )


def _models(models: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if names and len(names) != len(models):
        raise ValueError(
            f"--served-model-name is given {len(names)} times and --model {len(models)} times: "
            "name all models, or none"
        )
    pairs = tuple(zip(names or models, models, strict=True))
    twice = [name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1]
    if twice:
        raise ValueError(f"two models are called {twice[0]!r}: tell them apart by their names")
    return pairs


def _check_together(
    found: Mapping[str, Any], models: Sequence[tuple[str, str]], layout: Layout
) -> None:
    if (found["tls_cert"] is None) != (found["tls_key"] is None):
        raise ValueError("--tls-cert and --tls-key belong together: give both, or neither")
    if len(models) > 1 and found["engine_process"] is False:
        raise ValueError(
            "each of several models has a process of its own: leave --no-engine-process out"
        )
    if layout.apart and found["engine_process"] is False:
        raise ValueError(
            "an engine of several processes is not in the server's: leave --no-engine-process out"
        )


def _max_loaded(found: Mapping[str, Any]) -> int | None:
    most: int | None = found["max_loaded_models"]
    return 1 if most is None and found["max_model_memory_gib"] is None else most


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    flag = "--" + option.name.replace("_", "-")
    shown = f"{option.help} (default: {option.default})".replace("%", "%%")
    if option.type is bool:
        group.add_argument(
            flag,
            dest=option.name,
            action=argparse.BooleanOptionalAction,
            default=option.default,
            help=shown,
        )
    else:
        group.add_argument(
            flag,
            dest=option.name,
            type=option.type,
            default=option.default,
            choices=option.choices or None,
            required=option.required,
            help=shown,
        )
