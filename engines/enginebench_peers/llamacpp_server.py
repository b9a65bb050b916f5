"""`python -m enginebench_peers.llamacpp_server`: llama-server's command line, run by xllamacpp.

Takes the flags that the `llamacpp` engine uses, under llama-server's names, and hands them to the
same C++ server, which then answers HTTP by itself: no request passes through Python.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from enginebench_peers.llamacpp import CACHE_TYPES

__all__ = ["main", "make_params", "make_parser"]

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SPLIT_MODES: Final = {"none": "NONE", "layer": "LAYER", "row": "ROW"}
_FLASH_ATTENTION: Final = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
_CACHE_TYPES: Final = {name: name.upper() for name in CACHE_TYPES}
_FIELDS: Final[Mapping[str, str]] = {
    "model": "model.path",
    "port": "port",
    "ctx_size": "n_ctx",
    "parallel": "n_parallel",
    "gpu_layers": "n_gpu_layers",
    "threads": "cpuparams.n_threads",
    "threads_batch": "cpuparams_batch.n_threads",
    "batch_size": "n_batch",
    "ubatch_size": "n_ubatch",
    "kv_unified": "kv_unified",
    "cache_prompt": "cache_prompt",
    "cache_ram": "cache_ram_mib",
    "metrics": "endpoint_metrics",
    "webui": "ui",
}
"""Which field of xllamacpp's CommonParams takes a flag's value as it is."""
_ENUMS: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "cache_type_k": ("cache_type_k", "ggml_type.GGML_TYPE_", _CACHE_TYPES),
    "cache_type_v": ("cache_type_v", "ggml_type.GGML_TYPE_", _CACHE_TYPES),
    "split_mode": ("split_mode", "llama_split_mode.LLAMA_SPLIT_MODE_", _SPLIT_MODES),
    "flash_attn": (
        "flash_attn_type",
        "llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_",
        _FLASH_ATTENTION,
    ),
}
"""Field, enum with the beginning of its members' names, and how each value ends there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    asked = make_parser().parse_args(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)  # before any thread: all inherit it
    import xllamacpp

    if asked.list_devices:
        _print_devices(xllamacpp)
        return 0
    if asked.model is None:
        print("error: --model FILE.gguf is missing", file=sys.stderr)
        return 2
    try:
        server = xllamacpp.Server(make_params(xllamacpp, asked))
    except RuntimeError as error:  # its own log, above this line, says why
        print(f"error: llama.cpp did not start: {error}", file=sys.stderr)
        return 1
    print(f"ready on {server.listening_address}", file=sys.stderr, flush=True)
    signal.sigwait(_STOP_SIGNALS)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llamacpp_server", allow_abbrev=False)
    add = parser.add_argument
    for flag in ("--model", "--alias"):
        add(flag)
    add("--host", default="127.0.0.1")
    for flag in ("--port", "--ctx-size", "--parallel", "--gpu-layers", "--threads"):
        add(flag, type=int)
    for flag in ("--threads-batch", "--batch-size", "--ubatch-size", "--cache-ram"):
        add(flag, type=int)
    for flag in ("--cache-type-k", "--cache-type-v"):
        add(flag, choices=_CACHE_TYPES)
    add("--split-mode", choices=_SPLIT_MODES)
    add("--flash-attn", choices=_FLASH_ATTENTION)
    for flag in ("--kv-unified", "--cache-prompt", "--metrics", "--webui"):
        add(flag, action=argparse.BooleanOptionalAction)
    add("--list-devices", action="store_true", help="print the GPUs that it can use, and end")
    return parser


def make_params(xllamacpp: Any, asked: argparse.Namespace) -> Any:
    """CommonParams with what was asked for; the rest as llama.cpp ships it."""
    params = xllamacpp.CommonParams()
    params.hostnames = [asked.host]
    if asked.alias is not None:
        params.model_alias = {asked.alias}
    for flag, path in _FIELDS.items():
        if (value := getattr(asked, flag)) is not None:
            owner, _, field = path.rpartition(".")
            setattr(attrgetter(owner)(params) if owner else params, field, value)
    for flag, (field, member, ends) in _ENUMS.items():
        if (value := getattr(asked, flag)) is not None:
            setattr(params, field, attrgetter(member + ends[value])(xllamacpp))
    return params


def _print_devices(xllamacpp: Any) -> None:
    """In llama-server's format; the CPU is no device there."""
    print("Available devices:")
    for device in xllamacpp.get_device_info():
        if "CPU" not in device["type"].name:
            print(f"  {device['name']}: {device['description']}")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: requests in flight and llama.cpp's threads must not keep us
