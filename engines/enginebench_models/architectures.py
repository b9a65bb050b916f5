"""The architectures that the engines compute, as data: what their files do not say themselves.

`config_gguf` and `config_hf` read files by these facts, so that a new relative of a known family is
a new entry. An unknown name is answered with the list of known ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginebench.errors import UnknownNameError

__all__ = ["ARCHITECTURES", "Architecture", "named", "of_gguf", "of_hf"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What holds for all models of an architecture.

    `gguf` and `hf` are its names in files (`general.architecture`, `model_type`). `gguf_pairs` is
    how GGUF files order the rows of q and k. Of `sliding_period` layers all but the last slide,
    over and over. `gemma` models norm what a layer's parts yield, scale embeddings, use GELU, and
    their Hugging Face checkpoints keep norms less one. `merged`: q, k and v are one matrix in
    files, gate and up another. Models of `wide_layers` layers scale scores by the width of a head
    if it were hidden_size / heads, which GGUF files do not say.
    """

    name: str
    gguf: str
    hf: tuple[str, ...]
    gguf_pairs: Literal["adjacent", "halves"] = "halves"
    attention_bias: bool = False
    qk_norm: bool = False
    gemma: bool = False
    sliding_period: int | None = None
    sliding_rope_theta: float | None = None
    wide_layers: int | None = None
    merged: bool = False
    has_experts: bool = False
    normalizes_experts: bool = False

    def sliding_layers(self, n_layers: int, period: int | None = None) -> tuple[bool, ...]:
        """Which layers have a window, if the model has one; `period` is what its file says."""
        period = period or self.sliding_period
        if period is None:
            return (True,) * n_layers
        return tuple(layer % period < period - 1 for layer in range(n_layers))


ARCHITECTURES = (
    Architecture("llama", "llama", ("llama", "mistral"), "adjacent"),
    Architecture("qwen2", "qwen2", ("qwen2",), attention_bias=True),
    Architecture("qwen3", "qwen3", ("qwen3",), qk_norm=True),
    Architecture("gemma2", "gemma2", ("gemma2",), gemma=True, sliding_period=2, wide_layers=46),
    Architecture(
        "gemma3",
        "gemma3",
        ("gemma3_text",),
        qk_norm=True,
        gemma=True,
        sliding_period=6,
        sliding_rope_theta=10_000.0,
        wide_layers=62,
    ),
    Architecture("phi3", "phi3", ("phi3",), merged=True),
    Architecture(
        "mixtral", "llama", ("mixtral",), "adjacent", has_experts=True, normalizes_experts=True
    ),
    Architecture("qwen2moe", "qwen2moe", ("qwen2_moe",), attention_bias=True, has_experts=True),
    Architecture(
        "qwen3moe",
        "qwen3moe",
        ("qwen3_moe",),
        qk_norm=True,
        has_experts=True,
        normalizes_experts=True,
    ),
)
_BY_GGUF = {(a.gguf, a.has_experts): a for a in ARCHITECTURES}
_BY_HF = {kind: a for a in ARCHITECTURES for kind in a.hf}


def of_gguf(name: str, *, has_experts: bool) -> Architecture:
    """By `general.architecture`; a llama with experts is a Mixtral."""
    found = _BY_GGUF.get((name, has_experts))
    if found is None:
        known = dict.fromkeys(a.gguf for a in ARCHITECTURES)
        raise UnknownNameError("architecture", name, list(known))
    return found


def of_hf(model_type: str) -> Architecture:
    """By `model_type` of config.json."""
    if model_type not in _BY_HF:
        raise UnknownNameError("model_type", model_type, _BY_HF)
    return _BY_HF[model_type]


def named(name: str) -> Architecture:
    """By our own name, which ModelConfig has."""
    return next(a for a in ARCHITECTURES if a.name == name)
