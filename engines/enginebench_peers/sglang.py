"""The `sglang` engine: SGLang's server, from this environment or one whose program is on PATH."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

from enginebench.types import (
    Availability,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Numerics,
    Option,
)
from enginebench_peers.flags import option_flags
from enginebench_peers.hf_files import hf_folder, why_no_folder
from enginebench_peers.installed import absent, present, script_version
from enginebench_peers.precision import from_dtype

__all__ = ["Sglang"]

STARTUP_S = 1800.0


class Sglang:
    """SGLang's OpenAI-compatible server."""

    name = "sglang"
    summary = "SGLang's server: radix-tree prefix cache, continuous batching, on GPUs"
    server_metrics: Mapping[str, Sequence[str]] = {
        "server_running": ("sglang:num_running_reqs",),
        "server_waiting": ("sglang:num_queue_reqs",),
        "server_kv_used_share": ("sglang:token_usage",),
        "server_prefix_queried_tokens": ("sglang:prompt_tokens_total",),
        "server_prefix_hit_tokens": ("sglang:cached_tokens_total",),
    }
    options: Sequence[Option] = (
        Option(
            "dtype",
            str,
            None,
            "precision (SGLang: auto)",
            choices=("auto", "float16", "bfloat16", "float32"),
        ),
        Option("context_length", int, None, "tokens of one request (SGLang: the model's context)"),
        Option("max_running_requests", int, None, "requests computed at the same time, at most"),
        Option("chunked_prefill_size", int, None, "tokens of a piece of a long prompt"),
        Option("mem_fraction_static", float, None, "share of GPU memory for weights and KV cache"),
        Option("page_size", int, None, "tokens of a page of the KV cache (SGLang: 1)"),
        Option("kv_cache_dtype", str, None, "type of the KV cache, as in fp8_e5m2 (SGLang: auto)"),
        Option("quantization", str, None, "how weights are quantized, as in fp8"),
        Option("attention_backend", str, None, "as in flashinfer, fa3, triton"),
        Option("radix_cache", bool, True, "share cached prefixes"),
        Option("cuda_graph", bool, True, "replay decode steps from CUDA graphs"),
    )

    def availability(self) -> Availability:
        """It needs the package here, or the program."""
        if importlib.util.find_spec("sglang") is not None:
            return present(metadata.version("sglang"))
        script = shutil.which("sglang")
        if script is None:
            fix = "pip install sglang (in an environment of its own; then put its bin on PATH)"
            return absent("sglang is not installed, and no sglang on PATH", fix)
        return present(script_version("sglang", script))

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """CPUs, and models that only a server knows."""
        if not hardware.gpus:
            return f"sglang is made for GPUs; {hardware} names none"
        return why_no_folder(self.name, model)

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """The server, with tensor parallelism over all of the GPUs."""
        argv = [*_command(), "--model-path", str(hf_folder(model))]
        argv += ["--served-model-name", spec.model, "--host", "127.0.0.1", "--port", str(port)]
        if len(spec.hardware.gpus) > 1:
            argv += ["--tp-size", str(len(spec.hardware.gpus))]
        argv += option_flags(spec.options, without=("radix_cache", "cuda_graph"))
        for name in ("radix_cache", "cuda_graph"):  # SGLang only knows how to disable them
            if not spec.options.get(name, True):
                argv.append(f"--disable-{name.replace('_', '-')}")
        return Launch((*argv, "--enable-metrics"), spec.model, startup_timeout_s=STARTUP_S)

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """What it prints when it starts, where the options leave it open."""
        options = spec.options
        return from_dtype(
            options.get("dtype"),
            log,
            quantization=options.get("quantization"),
            kv_cache=options.get("kv_cache_dtype"),
        )


def _command() -> tuple[str, ...]:
    if importlib.util.find_spec("sglang") is not None:
        return (sys.executable, "-m", "sglang.launch_server")
    return (shutil.which("sglang") or "sglang", "serve")
