"""Paged attention for sequences with any number of queries (prefill, chunked prefill, mixed
steps).

A program takes a few consecutive queries of one sequence with all query heads that share a key
head, as rows of one tile, and walks over the keys that they see, this step's included: the cache
already holds them. Tiles of keys that every row sees whole are done without a mask, the rest with
one. The grid follows from the numbers of tokens and sequences, not from the lengths, so that it
fits a CUDA graph: each program finds its sequence, and a few find nothing to do. Decode has its
own kernel: here a lone query would leave most rows empty and its context unsplit.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.attention_decode import (
    blocks_of_tile,
    check_attention,
    fitting_tile,
    score_scale,
)
from enginebench_paged.kernels.checks import Scales, require, require_contiguous, require_shape
from enginebench_paged.kernels.configs import PrefillConfig, chip
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options

_LOG2E = math.log2(math.e)


@triton.jit
def _walk_keys(
    acc,
    total,
    best,
    query,
    position,
    begin,
    end,
    context,
    table,
    k_head,
    v_head,
    scale_log2,
    softcap,
    cache_stride_block,
    cache_stride_slot,
    HEAD_DIM: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Adds the keys begin:end to the running softmax (acc, total, best) of each row."""
    d = tl.arange(0, D_PAD)
    dtype = query.dtype
    block = blocks_of_tile(table, begin, context, BLOCK_SIZE, TILE)
    for start in tl.range(begin, end, TILE):
        token = start + tl.arange(0, TILE)
        inside = token < context
        at = block.to(tl.int64) * cache_stride_block + (token % BLOCK_SIZE) * cache_stride_slot
        block = blocks_of_tile(table, start + TILE, context, BLOCK_SIZE, TILE)
        k_at = k_head + at[None, :] + d[:, None]
        v_at = v_head + at[:, None] + d[None, :]
        if MASKED:
            key = tl.load(k_at, mask=inside[None, :] & (d < HEAD_DIM)[:, None], other=0.0)
            value = tl.load(v_at, mask=inside[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
        elif HEAD_DIM == D_PAD:
            key = tl.load(k_at)
            value = tl.load(v_at)
        else:
            key = tl.load(k_at, mask=(d < HEAD_DIM)[:, None], other=0.0)
            value = tl.load(v_at, mask=(d < HEAD_DIM)[None, :], other=0.0)
        score = tl.dot(query, key.to(dtype), input_precision="ieee")  # (ROWS, TILE)
        if SOFTCAP:  # as in the decode kernel
            score = softcap * (2.0 / (1.0 + tl.exp2(-score * scale_log2)) - 1.0)
        else:
            score = score * scale_log2
        if MASKED:
            visible = token[None, :] <= position[:, None]
            if WINDOW:
                visible = visible & (token[None, :] > position[:, None] - WINDOW)
            score = tl.where(visible, score, -1.0e30)
        new_best = tl.maximum(best, tl.max(score, axis=1))
        weight = tl.exp2(score - new_best[:, None])
        decay = tl.exp2(best - new_best)
        total = total * decay + tl.sum(weight, axis=1)
        acc = acc * decay[:, None]
        acc = tl.dot(weight.to(dtype), value.to(dtype), acc, input_precision="ieee")
        best = new_best
    return acc, total, best


@triton.jit(do_not_specialize=["batch"])
def _prefill_kernel(
    q,
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    block_tables,
    context_lens,
    query_starts,
    out,
    scale_log2,
    softcap,
    q_stride_token,
    q_stride_head,
    cache_stride_block,
    cache_stride_head,
    cache_stride_slot,
    table_stride,
    batch,
    BATCH_PAD: tl.constexpr,
    N_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    QUERIES: tl.constexpr = (
        ROWS // GROUP
    )  # a tile; where GROUP does not divide ROWS, rows are left over
    kv_head = tl.program_id(1)
    # sequence i has the programs from starts[i] // QUERIES + i on: at least as many as tiles
    index = tl.arange(0, BATCH_PAD)
    starts = tl.load(query_starts + index, mask=index < batch, other=1 << 30)
    first = starts // QUERIES + index
    sequence = tl.sum((first <= tl.program_id(0)).to(tl.int32), axis=0) - 1
    start = tl.load(query_starts + sequence)
    n_queries = tl.load(query_starts + sequence + 1) - start
    turn = tl.program_id(0) - (start // QUERIES + sequence)
    tile = tl.cdiv(n_queries, QUERIES) - 1 - turn  # the longest walks start first
    if tile < 0:
        return
    context = tl.load(context_lens + sequence)
    past = context - n_queries
    row = tl.arange(0, ROWS)
    query_index = tile * QUERIES + row // GROUP
    position = past + query_index
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, D_PAD)
    real = (row < QUERIES * GROUP) & (query_index < n_queries)
    mask = real[:, None] & (d < HEAD_DIM)[None, :]
    token = (start + query_index).to(tl.int64)
    q_at = q + token[:, None] * q_stride_token + head[:, None] * q_stride_head + d[None, :]
    query = tl.load(q_at, mask=mask, other=0.0)  # (ROWS, D_PAD)
    if SCALED:
        scale_log2 *= tl.load(k_scale + kv_head)

    first_position = past + tile * QUERIES
    end = tl.minimum(first_position + QUERIES, context)
    begin = 0
    whole_end = (first_position + 1) // TILE * TILE  # keys before it are seen by every row
    if WINDOW:
        begin = tl.maximum(first_position - WINDOW + 1, 0) // TILE * TILE
        whole_end = begin
    table = block_tables + sequence.to(tl.int64) * table_stride
    k_head = k_cache + kv_head.to(tl.int64) * cache_stride_head
    v_head = v_cache + kv_head.to(tl.int64) * cache_stride_head
    best = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, D_PAD), tl.float32)
    if not WINDOW:
        acc, total, best = _walk_keys(
            acc, total, best, query, position, begin, whole_end, context, table, k_head, v_head,
            scale_log2, softcap, cache_stride_block, cache_stride_slot,
            HEAD_DIM, D_PAD, BLOCK_SIZE, TILE, WINDOW, SOFTCAP, False,
        )  # fmt: skip
    acc, total, best = _walk_keys(
        acc, total, best, query, position, whole_end, end, context, table, k_head, v_head,
        scale_log2, softcap, cache_stride_block, cache_stride_slot,
        HEAD_DIM, D_PAD, BLOCK_SIZE, TILE, WINDOW, SOFTCAP, True,
    )  # fmt: skip
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    if SCALED:
        acc *= tl.load(v_scale + kv_head)
    out_at = out + (token * N_HEADS + head)[:, None] * HEAD_DIM + d[None, :]
    tl.store(out_at, acc.to(out.dtype.element_ty), mask=mask)


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_starts: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    scales: Scales | None = None,
    out: Tensor | None = None,
    config: PrefillConfig | None = None,
) -> Tensor:
    """Twin of reference.paged_attention for any lengths; a sequence without queries is skipped.

    Tokens after the last sequence's (padding of a graph) belong to nobody: their rows of the result
    are not written.
    """
    n_tokens, n_heads, head_dim = q.shape
    batch = query_starts.shape[0] - 1
    check_attention(q, k_cache, v_cache, block_tables, context_lens, batch, window, scales)
    require(
        query_starts.dtype == torch.int32, f"query_starts is {query_starts.dtype}, expected int32"
    )
    require_contiguous(query_starts=query_starts)
    n_kv_heads, block_size = k_cache.shape[1:3]
    group = n_heads // n_kv_heads
    if out is None:
        out = torch.empty((n_tokens, n_heads, head_dim), dtype=q.dtype, device=q.device)
    require_shape("out", out, n_tokens, n_heads, head_dim)
    require_contiguous(out=out)
    if n_tokens == 0:
        return out
    device = chip(q.device)
    config = device.prefill if config is None else config
    d_pad = max(16, triton.next_power_of_2(head_dim))
    rows = max(config.rows, triton.next_power_of_2(group))
    grid = (n_tokens // (rows // group) + batch, n_kv_heads)
    _prefill_kernel[grid](
        q,
        k_cache,
        v_cache,
        *(scales or (q, q)),
        block_tables,
        context_lens,
        query_starts,
        out,
        score_scale(scale, softcap),
        _LOG2E * (softcap or 0.0),
        q.stride(0),
        q.stride(1),
        *k_cache.stride()[:3],
        block_tables.stride(0),
        batch,
        BATCH_PAD=triton.next_power_of_2(batch),
        N_HEADS=n_heads,
        GROUP=group,
        ROWS=rows,
        HEAD_DIM=head_dim,
        D_PAD=d_pad,
        BLOCK_SIZE=block_size,
        TILE=fitting_tile(config, rows, d_pad * q.element_size(), device.shared_bytes),
        WINDOW=window or 0,
        SOFTCAP=softcap is not None,
        SCALED=scales is not None,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **launch_options(q.device),
    )
    return out
