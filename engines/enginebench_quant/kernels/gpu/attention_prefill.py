"""Causal attention of a chunk of prompt over the cache, which holds the chunk's own keys already.

A program takes a tile of queries of one head. Tiles of keys that every query of it sees whole are
done without a mask. The chunk's place is read on the device, so that one CUDA graph serves all.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_quant.kernels.gpu.attention_decode import capped
from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options
from enginebench_quant.kernels.gpu.sight import Sight

__all__ = ["prefill_attention"]

_LOG2E = math.log2(math.e)


@triton.jit
def _attend(
    acc, total, best, query, position, k_head, v_head, begin, end, scale, softcap,
    D: tl.constexpr, D_PAD: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr,
    CAPPED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Adds the keys begin:end to the running softmax of each row."""
    d = tl.arange(0, D_PAD)
    for start in tl.range(begin, end, TILE):
        key = start + tl.arange(0, TILE)
        k_at = k_head + key[None, :] * D + d[:, None]
        v_at = v_head + key[:, None] * D + d[None, :]
        if MASKED:
            inside = key < end
            k = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
            v = tl.load(v_at, mask=inside[:, None] & (d < D)[None, :], other=0.0)
        elif D == D_PAD:
            k = tl.load(k_at)
            v = tl.load(v_at)
        else:
            k = tl.load(k_at, mask=(d < D)[:, None], other=0.0)
            v = tl.load(v_at, mask=(d < D)[None, :], other=0.0)
        score = tl.dot(query, k) * scale
        if CAPPED:
            score = capped(score, softcap)
        if MASKED:
            score = tl.where(key[None, :] <= position[:, None], score, -1.0e30)
        if WINDOW:
            score = tl.where(key[None, :] > position[:, None] - WINDOW, score, -1.0e30)
        new_best = tl.maximum(best, tl.max(score, axis=1))
        weight = tl.exp2(score - new_best[:, None])
        decay = tl.exp2(best - new_best)
        total = total * decay + tl.sum(weight, axis=1)
        acc = acc * decay[:, None]
        acc = tl.dot(weight.to(tl.float16), v, acc)
        best = new_best
    return acc, total, best


@triton.jit
def _prefill_kernel(
    q, span, k_cache, v_cache, out, scale, softcap, capacity,
    N_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    head = tl.program_id(0)
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * ROWS  # the longest walks start first
    past = tl.load(span)
    count = tl.load(span + 1)
    if first >= count:
        return
    row = first + tl.arange(0, ROWS)
    d = tl.arange(0, D_PAD)
    real = (row < count)[:, None] & (d < D)[None, :]
    at = (row.to(tl.int64)[:, None] * N_HEADS + head) * D + d[None, :]
    query = tl.load(q + at, mask=real, other=0.0)
    position = past + row
    kv_at = (head // GROUP).to(tl.int64) * capacity * D
    acc = tl.zeros((ROWS, D_PAD), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    best = tl.full((ROWS,), -1.0e30, tl.float32)
    oldest = 0
    seen_by_all = (past + first + 1) // TILE * TILE
    if WINDOW:  # no key is seen by all where it is narrow: every tile is masked
        oldest = tl.maximum(past + first - WINDOW + 1, 0) // TILE * TILE
        seen_by_all = oldest
    end = past + tl.minimum(first + ROWS, count)
    acc, total, best = _attend(
        acc, total, best, query, position, k_cache + kv_at, v_cache + kv_at, oldest,
        seen_by_all, scale, softcap, D, D_PAD, TILE, WINDOW, CAPPED, False,
    )  # fmt: skip
    acc, total, best = _attend(
        acc, total, best, query, position, k_cache + kv_at, v_cache + kv_at, seen_by_all, end,
        scale, softcap, D, D_PAD, TILE, WINDOW, CAPPED, True,
    )  # fmt: skip
    acc = acc / total[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=real)


def prefill_attention(
    q: Tensor,
    span: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor,
    *,
    sight: Sight | None = None,
) -> None:
    """Twin of reference.prefill_attention; rows of `out` beyond the chunk's count stay as is."""
    n_tokens, n_heads, head_dim = q.shape
    sight = sight or Sight.of_head(head_dim)
    n_kv_heads, capacity, _ = k_cache.shape
    if q.dtype != torch.float16 or not (q.is_contiguous() and out.is_contiguous()):
        raise ValueError(f"q must be contiguous f16, it is {q.dtype}")
    most = 128 if head_dim <= 128 else 64
    rows = most if n_tokens > 64 and q.is_cuda else max(16, min(64, n_tokens))
    rows = triton.next_power_of_2(rows)
    _prefill_kernel[(n_heads, triton.cdiv(n_tokens, rows))](
        q, span, k_cache, v_cache, out, sight.scale * (1.0 if sight.softcap else _LOG2E),
        sight.softcap or 0.0, capacity,
        N_HEADS=n_heads, GROUP=n_heads // n_kv_heads, D=head_dim,
        D_PAD=max(16, triton.next_power_of_2(head_dim)), ROWS=rows, TILE=64,
        WINDOW=sight.window or 0, CAPPED=sight.softcap is not None,
        num_warps=8 if rows == 128 or head_dim > 128 else 4,
        num_stages=3 if head_dim <= 128 else 2, **launch_options(q.device),
    )  # fmt: skip
