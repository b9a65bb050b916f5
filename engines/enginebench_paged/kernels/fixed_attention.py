"""Paged attention whose every query has the same bits, whatever else the call holds: decodes,
chunks of prompts of any length, any batch.

A context is cut at multiples of SEGMENT keys, which follow from the width of the block tables
alone. Each segment has a softmax of its own, and those are joined in their order. A program takes a
tile of queries of one size and walks over all segments; where each sequence has one query, each
segment is a program of its own and a second kernel joins them, by the same function. Tiles of keys
begin at multiples of their size, and keys that a query does not see add zeros: a query cannot tell
which others share its tile. All tiles are masked, also those that all their queries see: code
without the mask is compiled to other roundings.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.attention_decode import check_attention, score_scale
from enginebench_paged.kernels.attention_prefill import _walk_keys
from enginebench_paged.kernels.checks import Scales, require, require_contiguous, require_shape
from enginebench_paged.kernels.configs import chip
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options

_LOG2E = math.log2(math.e)
_ROWS = 64  # query rows (token, head pairs) of a tile
_TILE_BYTES = 16384  # of keys: 64 of 128 halves
_MOST_SEGMENTS = 32
_LEAST_SEGMENT = 256  # keys


@triton.jit
def _join(acc, total, best, part, part_total, part_best, ROWS: tl.constexpr, D_PAD: tl.constexpr):
    """The running softmax with a segment's added; fma by name, so that no compiler chooses."""
    new_best = tl.maximum(best, part_best)
    decay = tl.exp2(best - new_best)
    weight = tl.exp2(part_best - new_best)
    total = tl.fma(total, decay, part_total * weight)
    wide = tl.broadcast_to(decay[:, None], (ROWS, D_PAD))
    acc = tl.fma(acc, wide, part * weight[:, None])
    return acc, total, new_best


@triton.jit(do_not_specialize=["batch"])
def _segments_kernel(
    q,
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    block_tables,
    context_lens,
    query_starts,
    out,
    partial,
    partial_total,
    partial_best,
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
    SEGMENT: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SCALED: tl.constexpr,
    APART: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    QUERIES: tl.constexpr = ROWS // GROUP
    kv_head = tl.program_id(1)
    index = tl.arange(0, BATCH_PAD)  # as in the prefill kernel
    starts = tl.load(query_starts + index, mask=index < batch, other=1 << 30)
    first = starts // QUERIES + index
    sequence = tl.sum((first <= tl.program_id(0)).to(tl.int32), axis=0) - 1
    start = tl.load(query_starts + sequence)
    n_queries = tl.load(query_starts + sequence + 1) - start
    turn = tl.program_id(0) - (start // QUERIES + sequence)
    tile = tl.cdiv(n_queries, QUERIES) - 1 - turn
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
    if WINDOW:
        begin = tl.maximum(first_position - WINDOW + 1, 0) // TILE * TILE
    first_segment = begin // SEGMENT
    end_segment = tl.cdiv(end, SEGMENT)
    if APART:
        first_segment = tl.maximum(first_segment, tl.program_id(2))
        end_segment = tl.minimum(end_segment, tl.program_id(2) + 1)
    table = block_tables + sequence.to(tl.int64) * table_stride
    k_head = k_cache + kv_head.to(tl.int64) * cache_stride_head
    v_head = v_cache + kv_head.to(tl.int64) * cache_stride_head
    best = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, D_PAD), tl.float32)
    for segment in tl.range(first_segment, end_segment):
        from_key = tl.maximum(segment * SEGMENT, begin)
        to_key = tl.minimum(segment * SEGMENT + SEGMENT, end)
        part_best = tl.full((ROWS,), -1.0e30, tl.float32)
        part_total = tl.zeros((ROWS,), tl.float32)
        part = tl.zeros((ROWS, D_PAD), tl.float32)
        part, part_total, part_best = _walk_keys(
            part, part_total, part_best, query, position, from_key, to_key, context,
            table, k_head, v_head, scale_log2, softcap, cache_stride_block, cache_stride_slot,
            HEAD_DIM, D_PAD, BLOCK_SIZE, TILE, WINDOW, SOFTCAP, True,
        )  # fmt: skip
        if APART:
            place = (token * N_HEADS + head) * tl.num_programs(2) + segment
            tl.store(partial_best + place, part_best, mask=real)
            tl.store(partial_total + place, part_total, mask=real)
            tl.store(partial + place[:, None] * HEAD_DIM + d[None, :], part, mask=mask)
        else:
            acc, total, best = _join(acc, total, best, part, part_total, part_best, ROWS, D_PAD)
    if not APART:
        acc = acc / tl.where(total > 0, total, 1.0)[:, None]
        if SCALED:
            acc *= tl.load(v_scale + kv_head)
        out_at = out + (token * N_HEADS + head)[:, None] * HEAD_DIM + d[None, :]
        tl.store(out_at, acc.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _join_kernel(
    partial,
    partial_total,
    partial_best,
    v_scale,
    context_lens,
    out,
    n_segments,
    N_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D_PAD: tl.constexpr,
    SEGMENT: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    token = tl.program_id(1).to(tl.int64)
    context = tl.load(context_lens + token)
    row = tl.arange(0, GROUP_PAD)
    d = tl.arange(0, D_PAD)
    head = tl.program_id(0) * GROUP + row
    real = (row < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    first = 0
    if WINDOW:
        first = tl.maximum(context - WINDOW, 0) // TILE * TILE // SEGMENT
    best = tl.full((GROUP_PAD,), -1.0e30, tl.float32)
    total = tl.zeros((GROUP_PAD,), tl.float32)
    acc = tl.zeros((GROUP_PAD, D_PAD), tl.float32)
    for segment in tl.range(first, tl.cdiv(context, SEGMENT)):
        place = (token * N_HEADS + head) * n_segments + segment
        part_best = tl.load(partial_best + place, mask=row < GROUP, other=-1.0e30)
        part_total = tl.load(partial_total + place, mask=row < GROUP, other=0.0)
        part_at = partial + place[:, None] * HEAD_DIM + d[None, :]
        part = tl.load(part_at, mask=real, other=0.0)
        acc, total, best = _join(acc, total, best, part, part_total, part_best, GROUP_PAD, D_PAD)
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    if SCALED:
        acc *= tl.load(v_scale + tl.program_id(0))
    out_at = out + (token * N_HEADS + head)[:, None] * HEAD_DIM + d[None, :]
    tl.store(out_at, acc.to(out.dtype.element_ty), mask=real)


def fixed_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_starts: Tensor,
    max_query_len: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    scales: Scales | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Twin of reference.paged_attention; with max_query_len 1 every sequence has one query, and
    each segment of its context gets a program (unless `split_kv` is off, with the same bits).
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
    require(group <= _ROWS, f"{group} query heads share a key head; at most {_ROWS} can")
    if out is None:
        out = torch.empty((n_tokens, n_heads, head_dim), dtype=q.dtype, device=q.device)
    require_shape("out", out, n_tokens, n_heads, head_dim)
    require_contiguous(out=out)
    if n_tokens == 0:
        return out
    segment = segment_keys(block_tables.shape[1] * block_size)
    segments = triton.cdiv(block_tables.shape[1] * block_size, segment)
    apart = max_query_len == 1 and segments > 1 and chip(q.device).decode.programs_per_sm > 0
    partial, partial_total, partial_best = out, out, out
    if apart:
        shape = (n_tokens, n_heads, segments)
        partial = torch.empty((*shape, head_dim), dtype=torch.float32, device=q.device)
        partial_total, partial_best = torch.empty((2, *shape), device=q.device).unbind(0)
    k_scale, v_scale = scales or (q, q)
    d_pad = max(16, triton.next_power_of_2(head_dim))
    constants = {
        "N_HEADS": n_heads,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "D_PAD": d_pad,
        "SEGMENT": segment,
        "TILE": max(16, min(128, _TILE_BYTES // (d_pad * q.element_size()))),
        "WINDOW": window or 0,
        "SCALED": scales is not None,
        **launch_options(q.device),
    }
    grid = (n_tokens // (_ROWS // group) + batch, n_kv_heads, segments if apart else 1)
    _segments_kernel[grid](
        q, k_cache, v_cache, k_scale, v_scale, block_tables, context_lens, query_starts, out,
        partial, partial_total, partial_best,
        score_scale(scale, softcap), _LOG2E * (softcap or 0.0), q.stride(0), q.stride(1),
        *k_cache.stride()[:3], block_tables.stride(0), batch,
        BATCH_PAD=triton.next_power_of_2(batch), ROWS=_ROWS, BLOCK_SIZE=block_size,
        SOFTCAP=softcap is not None, APART=apart, num_warps=8, num_stages=2, **constants,
    )  # fmt: skip
    if apart:
        _join_kernel[(n_kv_heads, n_tokens)](
            partial, partial_total, partial_best, v_scale, context_lens, out, segments,
            GROUP_PAD=triton.next_power_of_2(group), num_warps=4, **constants,
        )  # fmt: skip
    return out


def segment_keys(longest_context: int) -> int:
    """Keys of a segment: a power of two, so that the longest context has at most 32 of them."""
    return max(_LEAST_SEGMENT, triton.next_power_of_2(triton.cdiv(longest_context, _MOST_SEGMENTS)))
