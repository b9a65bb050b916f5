"""Plain numpy twins of the kernels: what they compute, without threads, tiles or packed layouts.

`forward` is a whole model in float32 over dequantized weights. Slow, short, and the oracle that the
tests hold the kernels to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Shape",
    "attention",
    "forward",
    "quantize_activations",
    "rms_norm",
    "rotate_adjacent",
    "rotate_halves",
    "silu_mul",
]

Floats = NDArray[np.float32]
BLOCK = 32


def quantize_activations(x: Floats) -> Floats:
    """What remains of `x` (..., columns) after blocks of 32 went through int8 and back."""
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    largest = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(127, largest, out=np.zeros_like(largest), where=largest > 0)
    codes = np.rint(blocks * inverse)
    return (codes * (largest / np.float32(127))).reshape(x.shape)


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x (..., width) over its root mean square, times weight."""
    mean = np.mean(np.square(x), -1, keepdims=True)
    return x / np.sqrt(mean + np.float32(eps)) * weight


def silu_mul(gate: Floats, up: Floats) -> Floats:
    """silu(gate) * up."""
    return gate / (1 + np.exp(-gate)) * up


def _angles(
    positions: NDArray[np.int64], frequencies: NDArray[np.float64]
) -> tuple[Floats, Floats]:
    angles = positions[:, None, None] * frequencies  # (tokens, 1, head_dim / 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate_halves(
    x: Floats, positions: NDArray[np.int64], frequencies: NDArray[np.float64]
) -> Floats:
    """Rotary embedding of x (tokens, heads, head_dim): element i goes with i + head_dim / 2."""
    cos, sin = _angles(positions, frequencies)
    first, second = np.split(x, 2, -1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def rotate_adjacent(
    x: Floats, positions: NDArray[np.int64], frequencies: NDArray[np.float64]
) -> Floats:
    """Rotary embedding of x (tokens, heads, head_dim): element 2i goes with 2i + 1."""
    cos, sin = _angles(positions, frequencies)
    first, second = x[..., 0::2], x[..., 1::2]
    pairs = np.stack([first * cos - second * sin, second * cos + first * sin], -1)
    return pairs.reshape(x.shape)


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    scale: float,
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> Floats:
    """Causal grouped-query attention: q (tokens, heads, d), k and v (positions, kv heads, d).

    The last query sees all positions, or itself and the window - 1 before it. Returns
    (tokens, heads, d).
    """
    group = q.shape[1] // k.shape[1]
    keys, values = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = np.einsum("thd,shd->hts", q, keys) * np.float32(scale)
    if softcap is not None:
        scores = np.tanh(scores / np.float32(softcap)) * np.float32(softcap)
    tokens, positions = scores.shape[1:]
    own = np.arange(positions - tokens, positions)[:, None]
    visible = np.arange(positions) <= own
    if window is not None:
        visible &= np.arange(positions) > own - window
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shd->thd", weights, values)


@dataclass(frozen=True, slots=True)
class Shape:
    """What `forward` must know about a model beside its weights."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    eps: float
    adjacent_pairs: bool
    frequencies: NDArray[np.float64]


def forward(
    shape: Shape,
    weights: Mapping[str, Floats],
    tokens: NDArray[np.int64],
    activations: Callable[[Floats], Floats] = lambda x: x,
) -> Floats:
    """Logits (tokens, vocabulary) of a llama-family model, canonical names -> float32 weights.

    `activations` is applied to what goes into each matrix product: `quantize_activations` gives
    the arithmetic of the int8 kernels.
    """
    x = weights["token_embd.weight"][tokens]
    for layer in range(shape.n_layers):
        own = {
            name.split(".", 2)[2]: value
            for name, value in weights.items()
            if name.startswith(f"blk.{layer}.")
        }
        normed = activations(rms_norm(x, own["attn_norm.weight"], shape.eps))
        mixed = activations(_attention_block(shape, own, normed))
        x = x + mixed @ own["attn_output.weight"].T
        normed = activations(rms_norm(x, own["ffn_norm.weight"], shape.eps))
        inner = silu_mul(normed @ own["ffn_gate.weight"].T, normed @ own["ffn_up.weight"].T)
        x = x + activations(inner) @ own["ffn_down.weight"].T
    x = activations(rms_norm(x, weights["output_norm.weight"], shape.eps))
    head = weights["output.weight"] if "output.weight" in weights else weights["token_embd.weight"]
    return x @ head.T


def _attention_block(shape: Shape, own: Mapping[str, Floats], x: Floats) -> Floats:
    def project(name: str, heads: int) -> Floats:
        flat = x @ own[f"{name}.weight"].T + own.get(f"{name}.bias", np.float32(0))
        rows = flat.reshape(len(x), heads, shape.head_dim)
        norm = own.get(f"{name}_norm.weight")
        return rows if norm is None else rms_norm(rows, norm, shape.eps)

    positions = np.arange(len(x))
    rotate = rotate_adjacent if shape.adjacent_pairs else rotate_halves
    q = rotate(project("attn_q", shape.n_heads), positions, shape.frequencies)
    k = rotate(project("attn_k", shape.n_kv_heads), positions, shape.frequencies)
    v = project("attn_v", shape.n_kv_heads)
    k, v = (part.astype(np.float16).astype(np.float32) for part in (k, v))  # as the cache keeps it
    return attention(q, k, v, shape.head_dim**-0.5).reshape(len(x), -1)
