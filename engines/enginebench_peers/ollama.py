"""The `ollama` engine: ollama's server with a store of its own, which ends with the cell.

Its API takes text alone and cannot be told to go on past the end of an answer: use
`--set fixed.prompt=text`, and expect answers that end early. It loads a model at the first request,
so the time to ready is without it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
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
from enginebench_peers.flags import positive
from enginebench_peers.gguf_files import gguf_path, why_no_gguf
from enginebench_peers.installed import absent, present
from enginebench_peers.precision import from_gguf

__all__ = ["Ollama"]

MODEL = "bench"  # names of models are restricted there, ours are not
_VERSION = re.compile(r"(\d+\.\d+\S*)")


class Ollama:
    """ollama, on a GGUF file."""

    name = "ollama"
    summary = "ollama's server, around llama.cpp (text prompts only)"
    options: Sequence[Option] = (
        Option("parallel", int, 16, "requests computed at the same time"),
        Option("context", int, 2048, "tokens of one request, prompt and output"),
        Option("flash_attention", bool, None, "flash attention (ollama decides)"),
        Option(
            "kv_cache_type",
            str,
            None,
            "type of the KV cache (ollama: f16)",
            choices=("f16", "q8_0", "q4_0"),
        ),
    )

    def availability(self) -> Availability:
        """It needs the program."""
        program = shutil.which("ollama")
        if program is None:
            return absent("there is no ollama on PATH", "install it from https://ollama.com")
        return present(_version(program))

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """What is no GGUF file."""
        return why_no_gguf(self.name, model)

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """`ollama_server`, which starts ollama and gives it the model."""
        parallel = positive(self.name, "parallel", spec.options.get("parallel", 16))
        context = positive(self.name, "context", spec.options.get("context", 2048))
        argv = [sys.executable, "-m", "enginebench_peers.ollama_server"]
        argv += ["--model", str(gguf_path(model)), "--name", MODEL, "--port", str(port)]
        if spec.hardware.cpu_threads is not None:
            argv += ["--threads", str(spec.hardware.cpu_threads)]
        if not spec.hardware.gpus:
            argv.append("--no-gpu")
        env = {"OLLAMA_NUM_PARALLEL": str(parallel), "OLLAMA_CONTEXT_LENGTH": str(context)}
        if (flash := spec.options.get("flash_attention")) is not None:
            env["OLLAMA_FLASH_ATTENTION"] = str(int(flash))
        if (kind := spec.options.get("kv_cache_type")) is not None:
            env["OLLAMA_KV_CACHE_TYPE"] = str(kind)
        return Launch(tuple(argv), MODEL, env, health_path=f"/v1/models/{MODEL}")

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """The file's weights, and the cache's type."""
        return from_gguf(model, str(spec.options.get("kv_cache_type", "f16")))


@cache
def _version(program: str) -> str | None:
    found = _VERSION.search(ask(program, "--version"))
    return found[1] if found else None
