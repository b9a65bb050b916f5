"""Products whose every row has the same bits whatever the number of rows: x (M, K) times W (N, K)
transposed.

All programs multiply tiles of one size, and K is cut into as many parts as W's shape and the chip
say, which are summed in their order. With few rows each part is a program of its own and a second
kernel sums them; with many one program does all parts. Either way the same sums are taken in the
same order, so that the choice is one of speed alone.
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
from enginebench_paged.kernels.configs import chip
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options
from enginebench_paged.kernels.gemv import sum_parts

_ROWS, _OUTPUTS = 64, 128  # a tile: rows of x, rows of W
_DEPTH_BYTES = 128  # of K at a time
_LEAST_STEPS = 2  # a part has no fewer


@triton.jit(do_not_specialize=["M"])
def _fixed_product_kernel(
    x,
    weight,
    bias,
    out,
    M,
    N,
    x_stride,
    weight_stride,
    K: tl.constexpr,
    COLUMNS_EACH: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLIT: tl.constexpr,
    BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    depth = tl.arange(0, DEPTH)
    x_at = x + row.to(tl.int64)[:, None] * x_stride
    w_at = weight + output.to(tl.int64)[None, :] * weight_stride
    first_part = tl.program_id(2)
    last_part = first_part + 1 if SPLIT else PARTS
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for part in tl.range(first_part, last_part):
        acc = tl.zeros((ROWS, OUTPUTS), tl.float32)
        begin = part * COLUMNS_EACH
        for start in tl.range(begin, tl.minimum(begin + COLUMNS_EACH, K), DEPTH):
            k = start + depth
            x_mask = (row < M)[:, None] & (k < K)[None, :]
            w_mask = (k < K)[:, None] & (output < N)[None, :]
            a = tl.load(x_at + k[None, :], mask=x_mask, other=0.0)
            w = tl.load(w_at + k[:, None], mask=w_mask, other=0.0)  # (DEPTH, OUTPUTS)
            acc = tl.dot(a, w, acc, input_precision="ieee")
        total += acc
    inside = (row < M)[:, None] & (output < N)[None, :]
    if SPLIT:
        out += first_part.to(tl.int64) * M * N
    elif BIAS:
        total += tl.load(bias + output, mask=output < N, other=0.0).to(tl.float32)[None, :]
    at = row.to(tl.int64)[:, None] * N + output[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def fixed_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    split: bool | None = None,
) -> Tensor:
    """Twin of reference.linear for x (M, K); `split` says how the parts of K are summed, for tests:
    by default, by what fills the chip.
    """
    m, k = x.shape
    n = weight.shape[0]
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
    if m == 0:
        return out
    depth = _DEPTH_BYTES // x.element_size()
    parts, columns_each = parts_of(n, k, depth, chip(x.device).sm_count)
    tiles = triton.cdiv(m, _ROWS) * triton.cdiv(n, _OUTPUTS)
    if split is None:
        split = parts > 1 and tiles < chip(x.device).sm_count
    target = out
    if split:
        target = torch.empty((parts, m, n), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(m, _ROWS), triton.cdiv(n, _OUTPUTS), parts if split else 1)
    _fixed_product_kernel[grid](
        x, weight, out if bias is None else bias, target, m, n, x.stride(0), weight.stride(0),
        K=k, COLUMNS_EACH=columns_each, PARTS=parts, ROWS=_ROWS, OUTPUTS=_OUTPUTS, DEPTH=depth,
        SPLIT=split, BIAS=bias is not None, num_warps=4, num_stages=3, **launch_options(x.device),
    )  # fmt: skip
    if split:
        sum_parts(target, bias, out)
    return out


def parts_of(n: int, k: int, depth: int, sm_count: int) -> tuple[int, int]:
    """Into how many parts K is cut, and their columns: two programs a multiprocessor at few rows,
    and never fewer than `_LEAST_STEPS` steps of `depth` columns each.
    """
    steps = triton.cdiv(k, depth)
    wanted = triton.cdiv(2 * sm_count, triton.cdiv(n, _OUTPUTS))
    each = triton.cdiv(steps, max(1, min(wanted, steps // _LEAST_STEPS)))
    return triton.cdiv(steps, each), each * depth
