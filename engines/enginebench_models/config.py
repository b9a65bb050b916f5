"""What must be known about a decoder-only transformer to compute it, whatever file says it.

The architectures differ in flags alone (biases, norms on queries and keys, order of rotary pairs),
so an engine asks for the flags and never for the architecture's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError

__all__ = ["ModelConfig", "RopeScaling", "expected_shapes"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched for long contexts.

    `linear` divides all of them by `factor`; `llama3` divides the low ones and blends the middle;
    `factors` divides the i-th by `frequency_factors[i]` (GGUF: the tensor `rope_freqs.weight`).
    """

    kind: Literal["linear", "llama3", "factors"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    frequency_factors: tuple[float, ...] = ()

    def apply(self, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scaled frequencies, in radians per position."""
        if self.kind == "linear":
            return frequencies / self.factor
        if self.kind == "factors":
            return frequencies / np.array(self.frequency_factors, np.float64)
        turns = self.original_context_length * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0, 1)  # 1: short waves stay; 0: long waves are stretched
        blended: NDArray[np.float64] = (1 - kept) * frequencies / self.factor + kept * frequencies
        return blended


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model.

    `rope_pairs` is how the rows of q and k lie in this weight source: "adjacent" rotates rows
    (0, 1), (2, 3) ... of a head together (GGUF files of llama models), "halves" rotates row i with
    row i + head_dim / 2 (everything else). `sliding_window` None: every token sees all before it.
    """

    architecture: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    rope_pairs: Literal["adjacent", "halves"] = "halves"
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        for field in ("n_layers", "hidden_size", "intermediate_size", "n_heads", "n_kv_heads"):
            self._check_positive(field)
        for field in ("head_dim", "vocab_size", "context_length", "rope_theta"):
            self._check_positive(field)
        if self.n_heads % self.n_kv_heads:
            raise ModelError(f"{self.n_heads} heads cannot share {self.n_kv_heads} KV heads evenly")
        if self.head_dim % 2:
            raise ModelError(f"head_dim is {self.head_dim}; rotary embedding needs an even number")

    def _check_positive(self, field: str) -> None:
        value = getattr(self, field)
        if not 0 < value < math.inf:
            raise ModelError(f"the model's {field} is {value}; it must be positive")

    def inverse_frequencies(self) -> NDArray[np.float64]:
        """Rotary frequencies with scaling applied, (head_dim / 2,), in radians per position."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        frequencies = self.rope_theta**-exponents
        return self.rope_scaling.apply(frequencies) if self.rope_scaling else frequencies


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of this shape has, by its canonical name, in file order."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab_size, config.hidden_size)
    }
    for layer in range(config.n_layers):
        for name, shape in _layer_shapes(config).items():
            shapes[f"blk.{layer}.{name}"] = shape
    shapes["output_norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["output.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    projections = {"attn_q": q_size, "attn_k": kv_size, "attn_v": kv_size}
    shapes: dict[str, tuple[int, ...]] = {"attn_norm.weight": (hidden,)}
    for name, size in projections.items():
        shapes[f"{name}.weight"] = (size, hidden)
        if config.attention_bias:
            shapes[f"{name}.bias"] = (size,)
    if config.qk_norm:
        shapes["attn_q_norm.weight"] = shapes["attn_k_norm.weight"] = (config.head_dim,)
    shapes["attn_output.weight"] = (hidden, q_size)
    shapes["ffn_norm.weight"] = (hidden,)
    shapes["ffn_gate.weight"] = shapes["ffn_up.weight"] = (inner, hidden)
    shapes["ffn_down.weight"] = (hidden, inner)
    return shapes
