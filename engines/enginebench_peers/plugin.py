"""What this package adds to `bench`: engines that others wrote."""

from __future__ import annotations

from collections.abc import Sequence

from enginebench.hookspecs import hookimpl
from enginebench.types import Engine, ModelInfo
from enginebench_peers.llamacpp import LlamaCpp
from enginebench_peers.ollama import Ollama
from enginebench_peers.sglang import Sglang
from enginebench_peers.tgi import Tgi
from enginebench_peers.transformers_engines import Transformers, TransformersBatching
from enginebench_peers.url import UrlEngine, remote_model
from enginebench_peers.vllm import Vllm

__all__ = ["enginebench_engines", "enginebench_resolve_model"]


@hookimpl
def enginebench_engines() -> Sequence[Engine]:
    """The engines of this package."""
    return [
        LlamaCpp(),
        Ollama(),
        Sglang(),
        Tgi(),
        Transformers(),
        TransformersBatching(),
        UrlEngine(),
        Vllm(),
    ]


@hookimpl(tryfirst=True)
def enginebench_resolve_model(name: str) -> ModelInfo | None:
    """Models that only a server knows."""
    return remote_model(name)
