"""The `llamacpp` engine: llama.cpp's own server, as a `llama-server` binary or inside xllamacpp.

A binary on PATH wins, since whoever put it there built it for this machine. Without one, PyPI's
`xllamacpp` is used, which holds the same C++ server; `llamacpp_server` gives it llama-server's
flags, so that both are started by the same command line.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata

from enginebench.types import (
    Availability,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Numerics,
    Option,
    OptionValue,
)
from enginebench_peers.ask import ask
from enginebench_peers.flags import option_flags, positive
from enginebench_peers.gguf_files import gguf_path, why_no_gguf
from enginebench_peers.installed import absent, present
from enginebench_peers.precision import from_gguf

__all__ = ["CACHE_TYPES", "LlamaCpp"]

BINARY = "llama-server"
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_CUDA_DEVICE = re.compile(r"^\s*CUDA\d+:", re.MULTILINE)
_VERSION = re.compile(r"version: (\d+)")


class LlamaCpp:
    """llama.cpp's server, with a slot for each concurrent request."""

    name = "llamacpp"
    summary = "llama.cpp's server: llama-server on PATH, else PyPI's xllamacpp"
    server_metrics: Mapping[str, Sequence[str]] = {
        "server_running": ("llamacpp:requests_processing",),
        "server_waiting": ("llamacpp:requests_deferred",),
        "server_kv_used_share": ("llamacpp:kv_cache_usage_ratio",),
    }
    options: Sequence[Option] = (
        Option("parallel", int, 16, "slots: requests that are computed at the same time"),
        Option("context", int, 2048, "tokens of one request, prompt and output (of each slot)"),
        Option("batch_size", int, None, "tokens of one batch at most (llama.cpp: 2048)"),
        Option("ubatch_size", int, None, "tokens computed at once (llama.cpp: 512)"),
        Option("gpu_layers", int, None, "layers on the GPUs (default: all of them; 0 on a CPU)"),
        Option(
            "split_mode",
            str,
            None,
            "how several GPUs share the model (llama.cpp: layer)",
            choices=("none", "layer", "row"),
        ),
        Option(
            "flash_attn",
            str,
            None,
            "flash attention (llama.cpp: auto)",
            choices=("on", "off", "auto"),
        ),
        Option("cache_type_k", str, None, "type of cached keys (llama.cpp: f16)", CACHE_TYPES),
        Option("cache_type_v", str, None, "type of cached values (llama.cpp: f16)", CACHE_TYPES),
        Option("kv_unified", bool, None, "one cache of parallel x context tokens for all slots"),
        Option(
            "cache_prompt", bool, None, "reuse what a slot's last prompt shares (llama.cpp: on)"
        ),
        Option("cache_ram", int, None, "MiB for the caches of past prompts (llama.cpp: 8192)"),
    )

    def availability(self) -> Availability:
        """It needs the binary, or the package."""
        binary = shutil.which(BINARY)
        if binary is not None:
            return present(_binary_version(binary))
        if importlib.util.find_spec("xllamacpp") is not None:
            return present(f"xllamacpp {metadata.version('xllamacpp')}")
        return absent(
            "neither llama-server is on PATH nor xllamacpp installed", "pip install xllamacpp"
        )

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """What is no GGUF file; GPUs that this build was not compiled for."""
        if hardware.gpus and not _CUDA_DEVICE.search(_devices(_command())):
            return (
                f"this llama.cpp ({' '.join(_command())}) sees no CUDA device; put a llama-server "
                "built with CUDA on PATH, or install a CUDA wheel of xllamacpp"
            )
        return why_no_gguf(self.name, model)

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """The server with a slot's context times the slots, which is how llama.cpp counts."""
        values = {option.name: option.default for option in self.options} | dict(spec.options)
        parallel = positive(self.name, "parallel", _set(values["parallel"]))
        context = positive(self.name, "context", _set(values["context"]))
        argv = [*_command(), "--model", str(gguf_path(model)), "--alias", spec.model]
        argv += ["--host", "127.0.0.1", "--port", str(port)]
        argv += ["--ctx-size", str(parallel * context), "--parallel", str(parallel)]
        argv += _hardware_flags(spec)
        argv += option_flags(spec.options, without=("parallel", "context", "gpu_layers"))
        return Launch((*argv, "--metrics", "--no-webui"), spec.model)

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """The file's weights, and the cache's type (of keys)."""
        return from_gguf(model, str(spec.options.get("cache_type_k", "f16")))


def _set(value: OptionValue | None) -> OptionValue:
    assert value is not None
    return value


def _hardware_flags(spec: EngineSpec) -> list[str]:
    hardware = spec.hardware
    layers = spec.options.get("gpu_layers", 999 if hardware.gpus else 0)
    flags = ["--gpu-layers", str(layers)]
    if hardware.cpu_threads is not None:
        threads = str(hardware.cpu_threads)
        flags += ["--threads", threads, "--threads-batch", threads]
    return flags


def _command() -> tuple[str, ...]:
    binary = shutil.which(BINARY)
    return (binary,) if binary else (sys.executable, "-m", "enginebench_peers.llamacpp_server")


@cache
def _devices(command: tuple[str, ...]) -> str:
    return ask(*command, "--list-devices")


@cache
def _binary_version(binary: str) -> str | None:
    found = _VERSION.search(ask(binary, "--version"))
    return f"b{found[1]}" if found else None
