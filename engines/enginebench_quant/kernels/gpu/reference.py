"""Plain torch twins of the GPU kernels: the oracle of their tests, and the path without a GPU.

Everything writes into what it is given, as the kernels do. Shapes: T tokens of a chunk, N rows of a
matrix, K columns; `span` (2,) i32 is a chunk's first position and count of tokens, `state` (2,)
i32 a sequence's last token and its position; caches are (kv heads, capacity, head_dim) f16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from enginebench_models.config import Activation
from enginebench_quant.kernels.gpu.planes import Planes, values
from enginebench_quant.kernels.gpu.sight import Sight
from enginebench_quant.kernels.gpu.vector import Int8Vector, pack_vector, unpack_vector

__all__ = [
    "add_rms_norm",
    "choose",
    "decode_attention",
    "dense_product",
    "expand",
    "expand_rows",
    "gate_mul",
    "gate_up",
    "norm_add",
    "prefill_attention",
    "product",
    "quantize_activations",
    "rope_and_cache",
    "round_rows",
    "scaled_logits",
]


def quantize_activations(x: Tensor) -> Tensor:
    """What remains of x (K,) after blocks of 32 went through int8 and back."""
    blocks = x.view(-1, 32)
    largest = blocks.abs().amax(1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    return (torch.round(blocks * inverse) * (largest * (1.0 / 127.0))).view(-1)


def _prepared(
    x: Tensor | Int8Vector, norm: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | float]:
    """The vector as a product takes it, and the factor that its result gets."""
    if isinstance(x, Int8Vector):
        return unpack_vector(x), 1.0
    if norm is None:
        return quantize_activations(x), 1.0
    return quantize_activations(x * norm), torch.rsqrt(x.square().mean() + eps)


def _rows(x: Tensor | Int8Vector) -> Sequence[Any]:
    return [x.row(index) for index in range(x.shape[0])] if isinstance(x, Int8Vector) else list(x)


def _put(values: Tensor, out: Tensor | Int8Vector) -> None:
    if isinstance(out, Int8Vector):
        pack_vector(values, out)
    else:
        out.copy_(values)


def product(
    x: Tensor | Int8Vector,
    matrices: Sequence[Planes],
    out: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    add: bool = False,
) -> None:
    """out (N,) = matrices one below the other times (normed) x (K,); plus bias; plus out itself.

    Of several rows, x (T, K) and out (T, N), each gets what it would get alone, bit for bit.
    """
    if len(x.shape) == 2:
        for row, target in zip(_rows(x), out, strict=True):
            product(row, matrices, target, norm=norm, eps=eps, bias=bias, add=add)
        return
    vector, factor = _prepared(x, norm, eps)
    y = torch.cat([values(matrix) @ vector for matrix in matrices]) * factor
    if bias is not None:
        y = y + bias
    out.copy_(y + out if add else y)


def gate_up(
    x: Tensor,
    gate: Planes,
    up: Planes,
    out: Tensor | Int8Vector,
    *,
    norm: Tensor,
    eps: float,
    activation: Activation = "silu",
) -> None:
    """out (N,) = activation(gate times normed x) * (up times normed x), quantized if out is.

    Several rows as in `product`.
    """
    if len(x.shape) == 2:
        for row, target in zip(x, _rows(out), strict=True):
            gate_up(row, gate, up, target, norm=norm, eps=eps, activation=activation)
        return
    vector, factor = _prepared(x, norm, eps)
    g, u = ((values(matrix) @ vector) * factor for matrix in (gate, up))
    _put(_activated(g, activation) * u, out)


def dense_product(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    add: bool = False,
) -> None:
    """As product, for one matrix (N, K) of plain numbers; x is not quantized."""
    if x.dim() == 2:
        for row, target in zip(x, out, strict=True):
            dense_product(row, weight, target, norm=norm, eps=eps, bias=bias, add=add)
        return
    y = weight.float() @ (x if norm is None else x * norm)
    if norm is not None:
        y = y * torch.rsqrt(x.square().mean() + eps)
    if bias is not None:
        y = y + bias
    out.copy_(y + out if add else y)


def expand(matrix: Planes, out: Tensor, *, ids: Tensor | None = None) -> None:
    """All rows of `matrix`, or rows `ids`, as numbers of out's type."""
    rows = values(matrix)
    out.copy_(rows if ids is None else rows[ids.long()])


def add_rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, eps: float, out: Tensor | None
) -> None:
    """x (T, N) f32 grows by `delta` in place; `out` becomes its RMS norm times `weight`."""
    if delta is not None:
        x += delta.float()
    if out is not None:
        assert weight is not None
        out.copy_(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight)


def norm_add(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> None:
    """x (T, N) f32 grows in place by the RMS norm of delta (T, N) times `weight`."""
    value = delta.float()
    x += value * torch.rsqrt(value.square().mean(-1, keepdim=True) + eps) * weight


def gate_mul(gate_up: Tensor, out: Tensor, *, activation: Activation = "silu") -> None:
    """(T, 2 * I), gates first, to activation(gate) * up, (T, I)."""
    gate, up = gate_up.float().chunk(2, -1)
    out.copy_(_activated(gate, activation) * up)


def _activated(gate: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return gate / (1 + torch.exp(-gate))
    return torch.nn.functional.gelu(gate, approximate="tanh")


def _rotate(heads: Tensor, angles: Tensor, norm: Tensor | None, eps: float) -> Tensor:
    """heads (T, H, D), angles (T, D): cosines then sines. Element i goes with i + D / 2."""
    if norm is not None:
        heads = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + eps) * norm
    cos, sin = angles[:, None].chunk(2, -1)
    low, high = heads.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def rope_and_cache(
    qkv: Tensor,
    span: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_out: Tensor,
    *,
    bias: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """qkv (T, all heads * D): rotated queries to q_out (T, Hq, D) f16, keys and values cached.

    cos_sin (positions, D) f32. Rows at and beyond the span's count are left alone.
    """
    start, count = (int(number) for number in span)
    n_heads, head_dim = q_out.shape[1:]
    n_kv_heads = k_cache.shape[0]
    rows = qkv[:count].float() if bias is None else qkv[:count].float() + bias
    heads = rows.view(count, -1, head_dim)
    q, k, v = heads.split([n_heads, n_kv_heads, n_kv_heads], 1)
    angles = cos_sin[start : start + count]
    q_out[:count] = _rotate(q, angles, q_norm, eps).half()
    k_cache[:, start : start + count] = _rotate(k, angles, k_norm, eps).half().transpose(0, 1)
    v_cache[:, start : start + count] = v.half().transpose(0, 1)


def prefill_attention(
    q: Tensor,
    span: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor,
    *,
    sight: Sight | None = None,
) -> None:
    """Causal attention of q (T, Hq, D) over positions 0 to span's end, to out (T, Hq, D)."""
    start, count = (int(number) for number in span)
    sight = sight or Sight.of_head(q.shape[-1])
    out[:count] = _attention(q[:count].float(), start, k_cache, v_cache, sight).to(out.dtype)


def _attention(q: Tensor, start: int, k_cache: Tensor, v_cache: Tensor, sight: Sight) -> Tensor:
    tokens, n_heads, _ = q.shape
    end = start + tokens
    group = n_heads // k_cache.shape[0]
    k, v = (cache[:, :end].float().repeat_interleave(group, 0) for cache in (k_cache, v_cache))
    scores = torch.einsum("thd,hsd->hts", q, k) * sight.scale
    if sight.softcap is not None:
        scores = torch.tanh(scores / sight.softcap) * sight.softcap
    position = torch.arange(start, end, device=q.device)[:, None]
    key = torch.arange(end, device=q.device)
    hidden = key > position
    if sight.window is not None:
        hidden |= key <= position - sight.window
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hts,hsd->thd", weights, v)


def decode_attention(
    qkv: Tensor,
    position: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor | Int8Vector,
    workspace: object,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
    sight: Sight | None = None,
    early: bool = True,
    scales: tuple[Tensor, Tensor] | None = None,
) -> None:
    """One token: qkv (all heads * D,) f32 without rotation, position (1,) i32, to out (Hq * D,).

    `out` is f32, or quantized. Its key and value are cached. `workspace` and `early` are the
    kernel's affair.
    """
    del workspace, early
    head_dim, place = k_cache.shape[2], int(position)
    q = torch.empty((1, out.shape[0] // head_dim, head_dim), dtype=torch.float16, device=out.device)
    span = torch.cat((position, torch.ones_like(position)))
    caches = (k_cache, v_cache)
    if scales is not None:
        plain = torch.zeros_like(k_cache, dtype=torch.float16)
        caches = (plain, plain.clone())
        for cache, codes, own in zip(caches, (k_cache, v_cache), scales, strict=True):
            expand_rows(codes, own, position, cache)
    rope_and_cache(qkv[None], span, cos_sin, *caches, q, q_norm=q_norm, k_norm=k_norm, eps=eps)
    if scales is not None:
        for cache, codes, own in zip(caches, (k_cache, v_cache), scales, strict=True):
            round_rows(cache, span, codes, own)
    sight = sight or Sight.of_head(head_dim)
    _put(_attention(q.float(), place, *caches, sight).flatten(), out)


def round_rows(
    cache: Tensor, span: Tensor, codes: Tensor, scales: Tensor, most: int | None = None
) -> None:
    """Rows of the span, of cache (kv heads, capacity, D) f16, as q8_0: `codes` i8, and `scales`
    (kv heads, capacity, D / 32) f16. The rows become what they then read as.
    """
    del most
    start, count = (int(number) for number in span)
    rows = cache[:, start : start + count].float().unflatten(-1, (-1, 32))
    largest = rows.abs().amax(-1)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    codes[:, start : start + count] = (
        torch.round(rows * inverse[..., None]).flatten(-2).to(torch.int8)
    )
    scales[:, start : start + count] = (largest * (1.0 / 127.0)).half()
    own = slice(start, start + count)
    cache[:, own] = (
        codes[:, own].half().unflatten(-1, (-1, 32)) * scales[:, own, :, None]
    ).flatten(-2)


def expand_rows(codes: Tensor, scales: Tensor, count: Tensor, out: Tensor) -> None:
    """The first `count` (1,) rows of a cache in q8_0 as f16."""
    end = int(count)
    rows = codes[:, :end].half().unflatten(-1, (-1, 32)) * scales[:, :end, :, None]
    out[:, :end] = rows.flatten(-2)


def scaled_logits(
    logits: Tensor, seen: Tensor, counts: Tensor, settings: Tensor, out: Tensor
) -> None:
    """logits (V,) with penalties, over the temperature if that is not 0.

    settings (4,) f32: temperature, repetition, presence, frequency penalty; seen (V,) i32: 1 for
    tokens of the context; counts (V,) i32: how often each was generated.
    """
    heat, repetition, presence, frequency = settings
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    x = torch.where(seen > 0, repeated, logits)
    x = x - torch.where(counts > 0, presence + frequency * counts, 0.0)
    out.copy_(x / torch.where(heat > 0, heat, 1.0))


def choose(
    logits: Tensor,
    seen: Tensor,
    counts: Tensor,
    settings: Tensor,
    bar: Tensor,
    seed: Tensor,
    state: Tensor,
    scratch: object,
) -> None:
    """The next token to state[0], state[1] + 1, and what the penalties must know.

    Scaled logits below `bar` (1,) f32 are out. seed (1,) i64. Draws other noise than the kernel.
    """
    del scratch
    key = torch.empty_like(logits)
    scaled_logits(logits, seen, counts, settings, key)
    if settings[0] > 0:
        random = torch.Generator(logits.device).manual_seed(_draw_seed(seed, state))
        noise = torch.empty_like(key).exponential_(generator=random).log_().neg_()
        key = torch.where(key >= bar, key, -torch.inf) + noise
    token = int(key.argmax())
    state[0] = token
    state[1] += 1
    counts[token] += 1
    seen[token] = 1


def _draw_seed(seed: Tensor, state: Tensor) -> int:
    return (int(seed) * 6364136223846793005 + int(state[1])) % (1 << 63)
