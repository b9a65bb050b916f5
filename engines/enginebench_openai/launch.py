"""The command line of an engine's server: written by plugins, read by `serve_main`.

One place for both directions, so that what a plugin writes is what the server understands. Every
`Option` is a flag: `block_size` becomes `--block-size 16`, a bool `--cuda-graphs` or
`--no-cuda-graphs`. Imports nothing heavy: plugins use it when `bench` starts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginebench.types import EngineSpec, Launch, ModelInfo, Option, OptionValue

__all__ = ["ServeArguments", "parse_arguments", "server_launch"]


@dataclass(frozen=True, slots=True)
class ServeArguments:
    """What `serve_main` was asked for. `options` holds no None: an absent one has no default."""

    model: str
    served_model_name: str
    host: str
    port: int
    api_key_file: Path | None
    max_body_bytes: int
    drain_s: float
    engine_process: bool
    options: Mapping[str, OptionValue]


def server_launch(module: str, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
    """`python -m module --model ... --port ...` with a flag for each of the spec's options."""
    argv = [sys.executable, "-m", module, "--model", model.name, "--port", str(port)]
    argv += ["--served-model-name", spec.model]
    for name, value in sorted(spec.options.items()):
        argv += _flags(name, value)
    return Launch(argv=tuple(argv), model_name=spec.model)


def _flags(name: str, value: OptionValue) -> Iterator[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
    else:
        yield f"--{flag}={value}"


def parse_arguments(
    argv: Sequence[str], *, program: str, description: str, options: Sequence[Option]
) -> ServeArguments:
    """Read a server's command line; wrong ones end the process with code 2, as argparse does."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    _add_server_arguments(parser)
    group = parser.add_argument_group("engine options")
    for option in options:
        _add_option(group, option)
    found = vars(parser.parse_args(argv))
    values = {option.name: found[option.name] for option in options}
    return ServeArguments(
        model=found["model"],
        served_model_name=found["served_model_name"] or found["model"],
        host=found["host"],
        port=found["port"],
        api_key_file=found["api_key_file"],
        max_body_bytes=int(found["max_body_mib"] * 2**20),
        drain_s=found["drain_s"],
        engine_process=found["engine_process"],
        options={name: value for name, value in values.items() if value is not None},
    )


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="registry name, path or synthetic:NAME")
    add("--served-model-name", help="what requests call the model (default: as given to --model)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=8000, help="0 chooses a free one (default: %(default)s)")
    add(
        "--api-key-file",
        type=Path,
        help="file with the key that requests must carry (or set ENGINEBENCH_API_KEY)",
    )
    add(
        "--max-body-mib",
        type=_positive,
        default=16.0,
        help="largest request body (default: %(default)g)",
    )
    add(
        "--drain-s",
        type=_positive,
        default=30.0,
        help="how long SIGTERM waits for requests in flight (default: %(default)g)",
    )
    add(
        "--engine-process",
        action=argparse.BooleanOptionalAction,
        default=_sees_gpu(),
        help="run the engine in a process of its own, not in a thread (default: with a GPU, "
        "which leaves the cores to it; here: %(default)s)",
    )


def _sees_gpu() -> bool:
    """Whether this process may use an NVIDIA GPU, asked without loading anything."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return shown not in ("", "-1") and any(Path("/dev").glob("nvidia[0-9]*"))


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


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: use 0 (any free one) to 65535")
    return port


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
