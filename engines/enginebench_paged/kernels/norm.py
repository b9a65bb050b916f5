"""RMSNorm over rows, alone or fused with the addition to the residual stream.

One program a row, the row in registers: it is read once and written once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import require, require_contiguous, require_shape
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options

_LONGEST_ROW = 65536


@triton.jit
def _rms_norm_kernel(
    x,
    residual,
    weight,
    out,
    total_out,
    eps,
    x_stride,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < COLUMNS
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0)
    scale = tl.load(weight + column, mask=inside, other=0.0)
    if ADD:
        before = tl.load(residual + row * COLUMNS + column, mask=inside, other=0.0)
        value = (value.to(tl.float32) + before.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(total_out + row * COLUMNS + column, value, mask=inside)
    value = value.to(tl.float32)
    mean_square = tl.sum(value * value, axis=0) / COLUMNS
    normed = value * tl.rsqrt(mean_square + eps) * scale.to(tl.float32)
    tl.store(out + row * COLUMNS + column, normed.to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, out: Tensor | None = None) -> Tensor:
    """Twin of reference.rms_norm; x (..., N) with dense rows, all rows one stride apart."""
    columns = x.shape[-1]
    rows = x.reshape(-1, columns)
    require(rows.stride(1) == 1, f"rows of x must be contiguous, its strides are {x.stride()}")
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(rows, None, weight, eps, out, None)
    return out


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    *,
    out: Tensor | None = None,
    total_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Twin of reference.add_rms_norm; `total_out` may be `residual` itself."""
    require_shape("residual", residual, *x.shape)
    require_contiguous(x=x, residual=residual)
    out = torch.empty_like(x) if out is None else out
    total_out = torch.empty_like(x) if total_out is None else total_out
    _launch(x.view(-1, x.shape[-1]), residual, weight, eps, out, total_out)
    return out, total_out


def _launch(
    rows: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    out: Tensor,
    total_out: Tensor | None,
) -> None:
    n_rows, columns = rows.shape
    require_shape("weight", weight, columns)
    require_contiguous(weight=weight, out=out)
    require(columns <= _LONGEST_ROW, f"rows have {columns} elements, at most {_LONGEST_ROW} fit")
    if n_rows == 0:
        return
    block = triton.next_power_of_2(columns)
    _rms_norm_kernel[(n_rows,)](
        rows,
        rows if residual is None else residual,
        weight,
        out,
        out if total_out is None else total_out,
        eps,
        rows.stride(0),
        COLUMNS=columns,
        BLOCK=block,
        ADD=residual is not None,
        num_warps=min(16, max(1, block // 512)),
        **launch_options(rows.device),
    )
