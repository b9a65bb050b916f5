"""The `tgi` engine: Hugging Face's text-generation-launcher.

Its API takes text alone and cannot be told to go on past the end of an answer: use
`--set fixed.prompt=text`, and expect answers that end early.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache

from enginebench.types import (
    Availability,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Numerics,
    Option,
)
from enginebench_peers.ask import ask
from enginebench_peers.flags import option_flags
from enginebench_peers.hf_files import hf_folder, why_no_folder
from enginebench_peers.installed import absent, present
from enginebench_peers.precision import from_dtype

__all__ = ["Tgi"]

PROGRAM = "text-generation-launcher"
STARTUP_S = 1800.0
_VERSION = re.compile(r"(\d+\.\d+\S*)")


class Tgi:
    """Text Generation Inference."""

    name = "tgi"
    summary = "Hugging Face's Text Generation Inference, on GPUs (text prompts only)"
    server_metrics: Mapping[str, Sequence[str]] = {
        "server_running": ("tgi_batch_current_size",),
        "server_waiting": ("tgi_queue_size",),
    }
    options: Sequence[Option] = (
        Option("dtype", str, None, "precision", choices=("float16", "bfloat16")),
        Option("quantize", str, None, "how weights are quantized, as in fp8"),
        Option("max_total_tokens", int, None, "tokens of one request, prompt and output"),
        Option("max_input_tokens", int, None, "tokens of one prompt"),
        Option("max_batch_prefill_tokens", int, None, "prompt tokens computed in one step"),
        Option("max_batch_total_tokens", int, None, "tokens of all running requests"),
        Option("max_concurrent_requests", int, None, "requests accepted at the same time (128)"),
        Option("cuda_memory_fraction", float, None, "share of GPU memory"),
        Option("cuda_graphs", str, None, "batch sizes with CUDA graphs, as in 1,2,4,8; 0: none"),
    )

    def availability(self) -> Availability:
        """It needs the program."""
        program = shutil.which(PROGRAM)
        if program is None:
            fix = "build text-generation-inference and put its bin on PATH, or start its image "
            fix += "and use --url"
            return absent(f"there is no {PROGRAM} on PATH", fix)
        return present(_version(program))

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """CPUs, and models that only a server knows."""
        if not hardware.gpus:
            return f"tgi is made for GPUs; {hardware} names none"
        return why_no_folder(self.name, model)

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """The launcher, with a shard for each GPU. It calls any model "tgi"."""
        argv = [shutil.which(PROGRAM) or PROGRAM, "--model-id", str(hf_folder(model))]
        argv += ["--hostname", "127.0.0.1", "--port", str(port)]
        argv += ["--num-shard", str(len(spec.hardware.gpus))]
        # Two launchers on one machine would share their sockets: each gets names of its own.
        argv += ["--shard-uds-path", f"{tempfile.gettempdir()}/enginebench-tgi-{port}"]
        argv += option_flags(spec.options)
        return Launch(tuple(argv), "tgi", startup_timeout_s=STARTUP_S)

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """As the options say; TGI decides between float16 and bfloat16 in silence."""
        return from_dtype(spec.options.get("dtype"), log, quantization=spec.options.get("quantize"))


@cache
def _version(program: str) -> str | None:
    found = _VERSION.search(ask(program, "--version"))
    return found[1] if found else None
