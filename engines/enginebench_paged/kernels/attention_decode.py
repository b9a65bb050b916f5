"""Paged attention for sequences with one query each (decode).

A program takes one key head of one sequence and the query heads that share it, padded to 16 rows
so that the matrix units multiply them, and walks over its part of the keys. Each context is cut
into equal parts on the device, so the grid is fixed at launch and fits a CUDA graph whatever the
lengths are; parts without keys return at once, and a second kernel joins the others. The number
of parts follows from batch * key heads and the size of the chip, at any batch size. A tile of
keys is independent of the block size.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import (
    Scales,
    check_scales,
    require,
    require_contiguous,
    require_dense_rows,
    require_shape,
)
from enginebench_paged.kernels.configs import DecodeConfig, PrefillConfig, chip
from enginebench_paged.kernels.dependent_launch import (
    LINE_BYTES,
    await_previous,
    launch_options,
    prefetch_line,
)

_LOG2E = math.log2(math.e)
_MOST_SPLITS = 128


@triton.jit
def _part_of_context(context, split, n_splits, TILE: tl.constexpr, WINDOW: tl.constexpr):
    """The first key and the end of a part, the number of parts in use, and the first key seen."""
    first = 0
    if WINDOW:
        first = tl.maximum(context - WINDOW, 0)
    first_tile = first // TILE
    n_tiles = tl.cdiv(context, TILE) - first_tile
    tiles_each = tl.maximum(tl.cdiv(n_tiles, n_splits), 1)
    begin = (first_tile + split * tiles_each) * TILE
    end = tl.minimum(begin + tiles_each * TILE, context)
    return begin, end, tl.cdiv(n_tiles, tiles_each), first


@triton.jit
def blocks_of_tile(table, start, end, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr):
    """The block of each token of a tile; asked for a tile ahead, so that keys wait for no table."""
    token = start + tl.arange(0, TILE)
    return tl.load(table + token // BLOCK_SIZE, mask=token < end, other=0)


@triton.jit
def _ask_for_keys(
    k_cache, v_cache, table, begin, end, head_at, cache_stride_block, cache_stride_slot,
    BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, ROW_LINES: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Has the cache fetch the first tile of a part. Its newest key may not be written yet, which
    does not matter: nothing is kept in registers.
    """
    if begin < end:
        token = tl.minimum(begin + tl.arange(0, TILE), end - 1)
        block = tl.load(table + token // BLOCK_SIZE).to(tl.int64)
        at = block * cache_stride_block + head_at + (token % BLOCK_SIZE) * cache_stride_slot
        line = tl.arange(0, ROW_LINES) * LINE
        prefetch_line(k_cache + at[:, None] + line[None, :])
        prefetch_line(v_cache + at[:, None] + line[None, :])


@triton.jit
def _decode_kernel(
    q,
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    block_tables,
    context_lens,
    out,
    partial,
    partial_lse,
    scale_log2,
    softcap,
    q_stride_token,
    q_stride_head,
    cache_stride_block,
    cache_stride_head,
    cache_stride_slot,
    table_stride,
    N_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SPLIT: tl.constexpr,
    SCALED: tl.constexpr,
    ROW_LINES: tl.constexpr,
    LINE: tl.constexpr,
    PDL: tl.constexpr,
):
    split = tl.program_id(0)
    n_splits = tl.num_programs(0)
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    context = tl.load(context_lens + sequence)
    begin, end, _, first = _part_of_context(context, split, n_splits, TILE, WINDOW)
    table = block_tables + sequence * table_stride
    head_at = kv_head.to(tl.int64) * cache_stride_head
    if PDL and SPLIT:
        _ask_for_keys(
            k_cache, v_cache, table, begin, end, head_at, cache_stride_block, cache_stride_slot,
            BLOCK_SIZE, TILE, ROW_LINES, LINE,
        )  # fmt: skip
    await_previous(PDL)
    if SPLIT:
        if begin >= end:
            return
    row = tl.arange(0, GROUP_PAD)
    d = tl.arange(0, D_PAD)
    head = kv_head * GROUP + row
    real = (row < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    q_at = q + sequence * q_stride_token + head[:, None] * q_stride_head + d[None, :]
    query = tl.load(q_at, mask=real, other=0.0)  # (GROUP_PAD, D_PAD)
    dtype = query.dtype
    if SCALED:
        scale_log2 *= tl.load(k_scale + kv_head)

    best = tl.full((GROUP_PAD,), -1.0e30, tl.float32)
    total = tl.zeros((GROUP_PAD,), tl.float32)
    acc = tl.zeros((GROUP_PAD, D_PAD), tl.float32)
    block = blocks_of_tile(table, begin, end, BLOCK_SIZE, TILE)
    for start in tl.range(begin, end, TILE):
        token = start + tl.arange(0, TILE)
        inside = token < end
        at = block.to(tl.int64) * cache_stride_block + head_at
        at += (token % BLOCK_SIZE) * cache_stride_slot
        block = blocks_of_tile(table, start + TILE, end, BLOCK_SIZE, TILE)
        k_mask = inside[None, :] & (d < HEAD_DIM)[:, None]
        key = tl.load(k_cache + at[None, :] + d[:, None], mask=k_mask, other=0.0)
        v_mask = inside[:, None] & (d < HEAD_DIM)[None, :]
        value = tl.load(v_cache + at[:, None] + d[None, :], mask=v_mask, other=0.0)
        score = tl.dot(query, key.to(dtype), input_precision="ieee")  # (GROUP_PAD, TILE)
        if SOFTCAP:  # scale_log2 holds 2 * scale / softcap / ln 2: tanh(x) = 2 * sigmoid(2x) - 1
            score = softcap * (2.0 / (1.0 + tl.exp2(-score * scale_log2)) - 1.0)
        else:
            score = score * scale_log2
        visible = inside
        if WINDOW:
            visible = inside & (token >= first)
        score = tl.where(visible[None, :], score, -1.0e30)
        new_best = tl.maximum(best, tl.max(score, axis=1))
        weight = tl.exp2(score - new_best[:, None])
        decay = tl.exp2(best - new_best)
        total = total * decay + tl.sum(weight, axis=1)
        acc = acc * decay[:, None]
        acc = tl.dot(weight.to(dtype), value.to(dtype), acc, input_precision="ieee")
        best = new_best

    total = tl.where(total > 0, total, 1.0)
    acc = acc / total[:, None]
    if SCALED:
        acc *= tl.load(v_scale + kv_head)
    if SPLIT:
        place = (sequence * N_HEADS + head) * n_splits + split
        tl.store(partial_lse + place, best + tl.log2(total), mask=row < GROUP)
        tl.store(partial + place[:, None] * HEAD_DIM + d[None, :], acc, mask=real)
    else:
        out_at = out + (sequence * N_HEADS + head)[:, None] * HEAD_DIM + d[None, :]
        tl.store(out_at, acc.to(out.dtype.element_ty), mask=real)


@triton.jit
def _combine_kernel(
    partial,
    partial_lse,
    context_lens,
    out,
    n_splits,
    N_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D_PAD: tl.constexpr,
    SPLITS_PAD: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    PDL: tl.constexpr,
):
    head = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    context = tl.load(context_lens + sequence)
    _, _, used, _ = _part_of_context(context, 0, n_splits, TILE, WINDOW)
    await_previous(PDL)
    split = tl.arange(0, SPLITS_PAD)
    d = tl.arange(0, D_PAD)
    row = sequence * N_HEADS + head
    lse = tl.load(partial_lse + row * n_splits + split, mask=split < used, other=-1.0e30)
    weight = tl.where(split < used, tl.exp2(lse - tl.max(lse, axis=0)), 0.0)
    part_at = partial + (row * n_splits + split)[:, None] * HEAD_DIM + d[None, :]
    real = (split < used)[:, None] & (d < HEAD_DIM)[None, :]
    part = tl.load(part_at, mask=real, other=0.0)  # (SPLITS_PAD, D_PAD)
    total = tl.sum(weight, axis=0)
    joined = tl.sum(part * weight[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * HEAD_DIM + d, joined.to(out.dtype.element_ty), mask=d < HEAD_DIM)


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    scales: Scales | None = None,
    out: Tensor | None = None,
    config: DecodeConfig | None = None,
) -> Tensor:
    """reference.paged_attention where each sequence has one query: q (B, Hq, D).

    A context of 0 (a padded row of a graph) yields zeros. Parts are kept in a workspace that
    torch's allocator provides; inside a graph it belongs to the graph.
    """
    batch, n_heads, head_dim = q.shape
    check_attention(q, k_cache, v_cache, block_tables, context_lens, batch, window, scales)
    n_kv_heads, block_size = k_cache.shape[1:3]
    if out is None:
        out = torch.empty((batch, n_heads, head_dim), dtype=q.dtype, device=q.device)
    require_shape("out", out, batch, n_heads, head_dim)
    require_contiguous(out=out)
    if batch == 0:
        return out
    device = chip(q.device)
    config = device.decode if config is None else config
    d_pad = max(16, triton.next_power_of_2(head_dim))
    group_pad = max(16, triton.next_power_of_2(n_heads // n_kv_heads))
    tile = fitting_tile(config, group_pad, d_pad * q.element_size(), device.shared_bytes)
    n_splits = split_count(
        batch * n_kv_heads, block_tables.shape[1] * block_size, tile, device.sm_count, config
    )
    partial, partial_lse = out, out
    element_bytes = k_cache.element_size()
    if n_splits > 1:
        shape = (batch, n_heads, n_splits)
        partial = torch.empty((*shape, head_dim), dtype=torch.float32, device=q.device)
        partial_lse = torch.empty(shape, dtype=torch.float32, device=q.device)
    options = launch_options(q.device)
    _decode_kernel[(n_splits, n_kv_heads, batch)](
        q,
        k_cache,
        v_cache,
        *(scales or (q, q)),
        block_tables,
        context_lens,
        out,
        partial,
        partial_lse,
        score_scale(scale, softcap),
        _LOG2E * (softcap or 0.0),
        q.stride(0),
        q.stride(1),
        *k_cache.stride()[:3],
        block_tables.stride(0),
        N_HEADS=n_heads,
        GROUP=n_heads // n_kv_heads,
        GROUP_PAD=group_pad,
        HEAD_DIM=head_dim,
        D_PAD=d_pad,
        BLOCK_SIZE=block_size,
        TILE=tile,
        WINDOW=window or 0,
        SOFTCAP=softcap is not None,
        SPLIT=n_splits > 1,
        SCALED=scales is not None,
        ROW_LINES=triton.next_power_of_2(triton.cdiv(head_dim * element_bytes, LINE_BYTES)),
        LINE=LINE_BYTES // element_bytes,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **options,
    )
    if n_splits > 1:
        splits_pad = triton.next_power_of_2(n_splits)
        _combine_kernel[(n_heads, batch)](
            partial,
            partial_lse,
            context_lens,
            out,
            n_splits,
            N_HEADS=n_heads,
            HEAD_DIM=head_dim,
            D_PAD=d_pad,
            SPLITS_PAD=splits_pad,
            TILE=tile,
            WINDOW=window or 0,
            num_warps=8 if splits_pad >= 32 else 2,
            **options,
        )
    return out


def split_count(
    heads: int, longest_context: int, tile: int, sm_count: int, config: DecodeConfig
) -> int:
    """Into how many parts each context is cut: enough to fill the chip, no part without a tile."""
    wanted = triton.cdiv(sm_count * config.programs_per_sm, heads)
    return max(1, min(wanted, triton.cdiv(longest_context, tile), _MOST_SPLITS))


def score_scale(scale: float, softcap: float | None) -> float:
    """What q @ k is multiplied by in a kernel: scores go through exp2, or through the soft cap's
    sigmoid.
    """
    return scale * _LOG2E if softcap is None else 2.0 * scale / softcap * _LOG2E


def fitting_tile(
    config: DecodeConfig | PrefillConfig, query_rows: int, row_bytes: int, shared_bytes: int
) -> int:
    """The configured tile, halved until its stages and the queries fit shared memory."""
    tile = config.tile
    stages = max(1, config.num_stages)
    while tile > 16 and (2 * stages * tile + query_rows) * row_bytes > shared_bytes:
        tile //= 2
    return tile


def check_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    batch: int,
    window: int | None,
    scales: Scales | None,
) -> None:
    """What both attention launchers demand."""
    n_kv_heads, block_size = k_cache.shape[1:3]
    require(
        q.shape[1] % n_kv_heads == 0,
        f"{q.shape[1]} query heads cannot share {n_kv_heads} key heads evenly",
    )
    require_shape("k_cache", k_cache, k_cache.shape[0], n_kv_heads, block_size, q.shape[2])
    require_shape("v_cache", v_cache, *k_cache.shape)
    require_shape("block_tables", block_tables, batch, block_tables.shape[1])
    require_shape("context_lens", context_lens, batch)
    for name, ids in (("block_tables", block_tables), ("context_lens", context_lens)):
        require(ids.dtype == torch.int32, f"{name} is {ids.dtype}, expected int32")
    require(k_cache.stride() == v_cache.stride(), "k_cache and v_cache must have the same strides")
    check_scales(k_cache, scales)
    require(window is None or window > 0, f"a window of {window} keys sees nothing; give 1 or more")
    require_dense_rows(q=q, k_cache=k_cache, block_tables=block_tables)
    require_contiguous(context_lens=context_lens)
