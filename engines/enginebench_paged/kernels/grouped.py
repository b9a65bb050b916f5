"""Products of rows sorted by group with the weight matrix of each group (mixtures of experts).

The grid is fixed by the number of rows and groups, so that a graph can capture it: there is one
program for each tile that the least favourable split could need. A program finds its group from the
offsets, which lie on the device; those past the last tile return at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import require, require_contiguous, require_shape
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options
from enginebench_paged.kernels.quantized import (
    format_constants,
    group_count,
    weight_halves,
    weight_tensors,
)
from enginebench_paged.kernels.quantized_weight import QuantizedWeight

_COLUMNS, _DEPTH = 64, 64  # a tile: outputs, and steps along K
_WHOLE = dict.fromkeys(("GROUP", "BITS", "MIDDLE", "PER_ROW", "ZEROS", "EVEN_K"), 0)


@triton.jit
def _grouped_kernel(
    x,
    weights,
    scales,
    zeros,
    offsets,
    rows,
    out,
    x_stride,
    value_stride,
    n_groups,
    N: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUPS_PAD: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    INDIRECT: tl.constexpr,
    QUANTIZED: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    MIDDLE: tl.constexpr,
    PER_ROW: tl.constexpr,
    ZEROS: tl.constexpr,
    EVEN_K: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    tile = tl.program_id(1)
    number = tl.arange(0, GROUPS_PAD)
    real = number < GROUPS
    first = tl.load(offsets + number, mask=real, other=0)
    last = tl.load(offsets + number + 1, mask=real, other=0)
    tiles = (last - first + TILE - 1) // TILE
    ends = tl.cumsum(tiles, axis=0)  # tiles of this group and those before it
    group = tl.sum((real & (ends <= tile)).to(tl.int32), axis=0)
    if group >= GROUPS:
        return
    mine = number == group
    begin = tl.sum(tl.where(mine, first + (tile - ends + tiles) * TILE, 0), axis=0)
    end = tl.sum(tl.where(mine, last, 0), axis=0)
    row = begin + tl.arange(0, TILE)
    inside = row < end
    source = row
    if INDIRECT:
        source = tl.load(rows + row, mask=inside, other=0)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    x_at = x + source.to(tl.int64)[:, None] * x_stride
    acc = tl.zeros((TILE, COLUMNS), tl.float32)
    if QUANTIZED:
        stacked = group.to(tl.int64) * N + column  # row of all matrices below each other
        half = tl.arange(0, GROUP // 2)
        for part in tl.range(0, n_groups):
            low, high = weight_halves(
                weights, zeros, stacked, column < N, part, value_stride, n_groups,
                K, GROUP, BITS, MIDDLE, PER_ROW, ZEROS, EVEN_K, x.dtype.element_ty,
            )  # fmt: skip
            k = part * GROUP + half
            a = tl.load(x_at + k[None, :], mask=inside[:, None] & (k < K)[None, :], other=0.0)
            product = tl.dot(a, tl.trans(low), input_precision="ieee")
            k += GROUP // 2
            a = tl.load(x_at + k[None, :], mask=inside[:, None] & (k < K)[None, :], other=0.0)
            product = tl.dot(a, tl.trans(high), product, input_precision="ieee")
            scale_at = scales + stacked * (1 if PER_ROW else n_groups) + (0 if PER_ROW else part)
            scale = tl.load(scale_at, mask=column < N, other=0.0).to(tl.float32)
            acc += product * scale[None, :]
    else:
        w_at = weights + group.to(tl.int64) * (N * K) + column.to(tl.int64)[None, :] * K
        for start in tl.range(0, K, DEPTH):
            k = start + depth
            a = tl.load(x_at + k[None, :], mask=inside[:, None] & (k < K)[None, :], other=0.0)
            w_mask = (k < K)[:, None] & (column < N)[None, :]
            w = tl.load(w_at + k[:, None], mask=w_mask, other=0.0)  # (DEPTH, COLUMNS)
            acc = tl.dot(a, w, acc, input_precision="ieee")
    target = out + row.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(target, acc.to(out.dtype.element_ty), mask=inside[:, None] & (column < N)[None, :])


def grouped_linear(
    x: Tensor,
    weights: Tensor | QuantizedWeight,
    offsets: Tensor,
    rows: Tensor | None = None,
    *,
    out: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """Twin of reference.grouped_linear; the result has as many rows as `rows`, or as x. Tiles have
    as many rows as the groups have on average, or `tile`.
    """
    require(x.dim() == 2 and x.stride(1) == 1, f"x must have dense rows, has {x.stride()}")
    quantized = isinstance(weights, QuantizedWeight)
    groups, n, k = weights.shape
    require(x.shape[1] == k, f"x has {x.shape[1]} columns, the weights {k}")
    require_shape("offsets", offsets, groups + 1)
    require(offsets.dtype == torch.int32, f"offsets is {offsets.dtype}, expected int32")
    require_contiguous(offsets=offsets)
    if rows is not None:
        require(rows.dim() == 1, f"rows has shape {tuple(rows.shape)}, expected one dimension")
        require_contiguous(rows=rows)
    count = len(x) if rows is None else len(rows)
    if out is None:
        out = torch.empty((count, n), dtype=x.dtype, device=x.device)
    require_shape("out", out, count, n)
    require_contiguous(out=out)
    if count == 0:
        return out
    tile = tile or min(64, max(16, triton.next_power_of_2(count // groups)))
    most_tiles = count // tile + min(count, groups)
    grid = (triton.cdiv(n, _COLUMNS), most_tiles)
    if isinstance(weights, QuantizedWeight):
        tensors, constants = weight_tensors(weights), format_constants(weights)
        sizes = (weights.values.stride(1), group_count(weights))
    else:
        require_contiguous(weights=weights)
        tensors, constants, sizes = (weights, weights, weights), _WHOLE, (k, 1)
    _grouped_kernel[grid](
        x,
        *tensors,
        offsets,
        x if rows is None else rows,
        out,
        x.stride(0),
        *sizes,
        N=n,
        K=k,
        GROUPS=groups,
        GROUPS_PAD=triton.next_power_of_2(groups),
        TILE=tile,
        COLUMNS=_COLUMNS,
        DEPTH=_DEPTH,
        INDIRECT=rows is not None,
        QUANTIZED=quantized,
        **constants,
        num_warps=4,
        num_stages=3,
        **launch_options(x.device),
    )
    return out


def fixed_grouped_linear(x: Tensor, weights: Tensor | QuantizedWeight, offsets: Tensor) -> Tensor:
    """`grouped_linear` in tiles of one size: a row does not show how many others there are."""
    return grouped_linear(x, weights, offsets, tile=64)
