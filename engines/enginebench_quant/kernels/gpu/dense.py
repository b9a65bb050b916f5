"""Product of a matrix of plain numbers (f32, f16, bf16) with one vector, for what a file does not
quantize. Norm, bias and addition are as in `product`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options

__all__ = ["dense_product"]

_ROWS, _COLUMNS = 4, 1024


@triton.jit
def _dense_kernel(
    x, norm, eps, weight, bias, out, rows,
    K: tl.constexpr, R: tl.constexpr, COLUMNS: tl.constexpr, NORM: tl.constexpr,
    BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * R + tl.arange(0, R)
    inside = (row < rows)[:, None]
    row_at = weight + row.to(tl.int64)[:, None] * K
    column = tl.arange(0, COLUMNS)
    w = tl.load(row_at + column[None, :], mask=inside & (column < K)[None, :], other=0.0)
    await_previous(PDL)
    total = tl.zeros((R, COLUMNS), tl.float32)
    squares = tl.zeros((COLUMNS,), tl.float32)
    for start in tl.range(0, K, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        v = tl.load(x + column, mask=column < K, other=0.0)
        if NORM:
            squares += v * v
            v = v * tl.load(norm + column, mask=column < K, other=0.0)
        current = w
        following = column + COLUMNS
        w = tl.load(row_at + following[None, :], mask=inside & (following < K)[None, :], other=0.0)
        total += current.to(tl.float32) * v[None, :]
    y = tl.sum(total, axis=1)
    if NORM:
        y = y * tl.rsqrt(tl.sum(squares, axis=0) / K + eps)
    if BIAS:
        y += tl.load(bias + row, mask=row < rows, other=0.0)
    if ADD:
        y += tl.load(out + row, mask=row < rows, other=0.0)
    tl.store(out + row, y, mask=row < rows)


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
    """Twin of reference.dense_product. Several rows are as many launches."""
    if x.dim() == 2:
        for row, target in zip(x, out, strict=True):
            dense_product(row, weight, target, norm=norm, eps=eps, bias=bias, add=add)
        return
    rows, columns = weight.shape
    if x.shape != (columns,) or out.shape != (rows,) or not weight.is_contiguous():
        raise ValueError(f"{tuple(weight.shape)} times {tuple(x.shape)} is not {tuple(out.shape)}")
    if x.dtype != torch.float32 or out.dtype != torch.float32:
        raise ValueError(f"x and out must be float32, they are {x.dtype} and {out.dtype}")
    _dense_kernel[(triton.cdiv(rows, _ROWS),)](
        x, x if norm is None else norm, eps, weight, out if bias is None else bias, out, rows,
        K=columns, R=_ROWS, COLUMNS=min(_COLUMNS, triton.next_power_of_2(columns)),
        NORM=norm is not None, BIAS=bias is not None, ADD=add, num_warps=4,
        **launch_options(x.device),
    )  # fmt: skip
