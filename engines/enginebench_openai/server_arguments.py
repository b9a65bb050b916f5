"""The flags that every engine's server has, and their help; `launch.py` reads them."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_server_arguments"]


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """All but the engine's own options."""
    add = parser.add_argument
    add(
        "--model",
        action="append",
        required=True,
        help="registry name, path or synthetic:NAME; several times: the first is loaded at the "
        "start, the others when a request names them",
    )
    add(
        "--served-model-name",
        action="append",
        default=[],
        help="what requests call the model (default: as given to --model); once for each",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=8000, help="0 chooses a free one (default: %(default)s)")
    _add_access_arguments(parser.add_argument_group("who may ask"))
    _add_limit_arguments(parser.add_argument_group("limits"))
    _add_engine_arguments(parser.add_argument_group("the engine's life"))
    _add_log_arguments(parser.add_argument_group("logs (standard error)"))


def _add_access_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--api-key-file",
        type=Path,
        help="file with the keys that requests must carry, one a line (or set "
        "ENGINEBENCH_API_KEY); each key has its fair share of the engine",
    )
    add("--tls-cert", type=Path, help="certificate chain in PEM: the server then speaks HTTPS only")
    add("--tls-key", type=Path, help="its private key in PEM")
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web page origin whose scripts may ask, such as https://chat.example (default: none)",
    )


def _add_limit_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--max-body-mib",
        type=_positive,
        default=16.0,
        help="largest request body (default: %(default)g)",
    )
    add(
        "--max-queue",
        type=_count,
        default=4096,
        help="generations that may wait for a slot; of these a client may hold as many as it "
        "leaves free, and is told 429 beyond that (default: %(default)d)",
    )
    add(
        "--queue-timeout",
        type=_seconds,
        default=600.0,
        help="seconds to wait for a slot before 503; 0: no limit (default: %(default)g)",
    )
    add(
        "--request-timeout",
        type=_seconds,
        default=3600.0,
        help="seconds from a request's arrival to its last token; 0: no limit "
        "(default: %(default)g)",
    )
    add(
        "--stall-timeout",
        type=_positive,
        default=60.0,
        help="seconds that a client may take to send more of its request, or to read more of its "
        "answer (default: %(default)g)",
    )


def _add_engine_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--max-loaded-models",
        type=_count,
        default=None,
        help="of several models, how many may be in memory at once (default: 1; with "
        "--max-model-memory-gib: as many as fit)",
    )
    add(
        "--max-model-memory-gib",
        type=_positive,
        default=None,
        help="memory for all loaded models together, of processes and devices: a model that is "
        "wanted and does not fit beside the others makes one of them leave (default: no limit)",
    )
    add(
        "--model-idle-timeout",
        type=_seconds,
        default=None,
        help="seconds without a request after which a model is unloaded (default: never)",
    )
    add(
        "--slot-save-path",
        type=Path,
        metavar="DIRECTORY",
        help="where POST /slots/0?action=save keeps prompt caches (default: nowhere)",
    )
    add(
        "--engine-restarts",
        type=_whole,
        default=3,
        help="tries in a row to restart an engine that has died (default: %(default)d)",
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
        default=None,
        help="run the engine in a process of its own, not in a thread (default: with a GPU, "
        "which leaves the cores to it, and with several models)",
    )


def _add_log_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--log-format", choices=("text", "json"), default="text", help="default: %(default)s")
    add("--log-requests", action="store_true", help="a line for each answer, without prompts")
    add("--log-prompts", action="store_true", help="every request's body: what users wrote")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: use 0 (any free one) to 65535")
    return port


def _seconds(text: str) -> float | None:
    number = float(text)
    return None if number == 0 else _positive(text)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
