"""Skinny products: x (M, K) times W (N, K) transposed for M <= 64, bound by reading W once.

Two kernels. "fma" (M = 1) multiplies on the vector units: a program owns a few rows of W and sums
along K in registers. "dot" multiplies on the matrix units, W as the tall operand, x padded to 16,
32 or 64 columns. Where N alone gives too few programs K is cut into parts, summed by a second
kernel in a fixed order: no atomics, so the same inputs give the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import (
    require,
    require_contiguous,
    require_dense_rows,
    require_shape,
)
from enginebench_paged.kernels.configs import DotConfig, FmaConfig, GemvConfig, gemv_config
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options

MOST_ROWS = 64
_FALLBACK = DotConfig(32, 64, 1, 4, 2)


@triton.jit
def _store(out, bias, value, row, inside, m, M, N, part, SPLIT: tl.constexpr, BIAS: tl.constexpr):
    """value for the outputs (m, row): to out (M, N), or to partial sums (split_k, M, N)."""
    if SPLIT:
        out += part.to(tl.int64) * M * N
    elif BIAS:
        value += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)
    tl.store(out + m * N + row, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _weight_tile(row_at, inside, start, K, COLUMNS: tl.constexpr, EVEN_K: tl.constexpr):
    column = start + tl.arange(0, COLUMNS)
    mask = inside[:, None]
    if not EVEN_K:
        mask = mask & (column < K)[None, :]
    return tl.load(row_at + column[None, :], mask=mask, other=0.0)


@triton.jit
def _fma_kernel(
    x,
    weight,
    bias,
    out,
    N,
    weight_stride,
    columns_each,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EVEN_K: tl.constexpr,
    SPLIT: tl.constexpr,
    BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    inside = row < N
    row_at = weight + row.to(tl.int64)[:, None] * weight_stride
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    begin = part * columns_each
    end = tl.minimum(begin + columns_each, K)
    w = _weight_tile(row_at, inside & (begin < end), begin, K, COLUMNS, EVEN_K)
    await_previous(PDL)
    for start in tl.range(begin, end, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        if EVEN_K:
            factor = tl.load(x + column)
        else:
            factor = tl.load(x + column, mask=column < K, other=0.0)
        product = w.to(tl.float32) * factor.to(tl.float32)[None, :]
        following = start + COLUMNS  # its weights are asked for before this tile's are summed
        w = _weight_tile(row_at, inside & (following < end), following, K, COLUMNS, EVEN_K)
        acc += product
    _store(out, bias, tl.sum(acc, axis=1), row, inside, 0, 1, N, part, SPLIT, BIAS)


@triton.jit(do_not_specialize=["M"])
def _dot_kernel(
    x,
    weight,
    bias,
    out,
    M,
    N,
    x_stride,
    weight_stride,
    columns_each,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    M_PAD: tl.constexpr,
    EVEN_K: tl.constexpr,
    SPLIT: tl.constexpr,
    BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    m = tl.arange(0, M_PAD)
    inside = row < N
    row_at = weight + row.to(tl.int64)[:, None] * weight_stride
    x_at = x + m[None, :] * x_stride
    acc = tl.zeros((ROWS, M_PAD), tl.float32)
    begin = part * columns_each
    for start in tl.range(begin, tl.minimum(begin + columns_each, K), COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        if EVEN_K:
            w = tl.load(row_at + column[None, :], mask=inside[:, None], other=0.0)
            factor = tl.load(x_at + column[:, None], mask=(m < M)[None, :], other=0.0)
        else:
            mask = inside[:, None] & (column < K)[None, :]
            w = tl.load(row_at + column[None, :], mask=mask, other=0.0)
            mask = (column < K)[:, None] & (m < M)[None, :]
            factor = tl.load(x_at + column[:, None], mask=mask, other=0.0)
        acc = tl.dot(w, factor, acc, input_precision="ieee")  # (ROWS, M_PAD)
    mask = inside[:, None] & (m < M)[None, :]
    _store(out, bias, acc, row[:, None], mask, m[None, :], M, N, part, SPLIT, BIAS)


@triton.jit
def _sum_parts_kernel(
    parts, bias, out, N, count, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(SPLIT_K):
        total += tl.load(parts + part * count + at, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + at % N, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def skinny_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    config: GemvConfig | None = None,
) -> Tensor:
    """Twin of reference.linear for x (M, K), M <= 64; sums in float32."""
    m, k = x.shape
    n = weight.shape[0]
    require(0 < m <= MOST_ROWS, f"x has {m} rows, this product takes 1 to {MOST_ROWS}")
    require_shape("weight", weight, n, k)
    require(x.dtype == weight.dtype, f"x is {x.dtype}, weight is {weight.dtype}; they must agree")
    require_dense_rows(x=x, weight=weight)
    if bias is not None:
        require_shape("bias", bias, n)
        require_contiguous(bias=bias)
    if out is None:
        out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    require_shape("out", out, m, n)
    require_contiguous(out=out)
    if config is None:
        config = gemv_config(x.device, m, n, k) or _FALLBACK
    fma = isinstance(config, FmaConfig)
    require(m == 1 or not fma, f"the vector units' product takes one row, x has {m}")
    split = config.split_k > 1
    target = out
    if split:
        target = torch.empty((config.split_k, m, n), dtype=torch.float32, device=x.device)
    steps = triton.cdiv(k, config.columns)
    columns_each = triton.cdiv(steps, config.split_k) * config.columns
    grid = (triton.cdiv(n, config.rows), config.split_k)
    constants = {
        "K": k,
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "EVEN_K": k % config.columns == 0,
        "SPLIT": split,
        "BIAS": bias is not None,
        "num_warps": config.num_warps,
        **launch_options(x.device),
    }
    some_bias = out if bias is None else bias
    if isinstance(config, FmaConfig):
        _fma_kernel[grid](
            x, weight, some_bias, target, n, weight.stride(0), columns_each,
            **constants,
        )  # fmt: skip
    else:
        _dot_kernel[grid](
            x, weight, some_bias, target, m, n, x.stride(0), weight.stride(0), columns_each,
            M_PAD=max(16, triton.next_power_of_2(m)), num_stages=config.num_stages, **constants,
        )  # fmt: skip
    if split:
        sum_parts(target, bias, out)
    return out


def sum_parts(parts: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """parts (split_k, M, N) in their order, plus bias (N,), to out (M, N)."""
    count, block = out.numel(), 512
    _sum_parts_kernel[(triton.cdiv(count, block),)](
        parts, out if bias is None else bias, out, out.shape[1], count,
        SPLIT_K=len(parts), BLOCK=block, BIAS=bias is not None, num_warps=4,
        **launch_options(out.device),
    )  # fmt: skip
