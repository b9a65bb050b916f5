"""The products of a single row with what surrounds them: a decode step of one sequence.

There every kernel between two products costs more by starting than by working. So the norm before a
product is computed by each of its programs over again (a row is a few kilobytes, and the first
weights are on their way meanwhile), and what follows it, SiLU or the addition to the residual
stream, is done before it is stored. A layer is then six launches: norm and qkv, rope and cache,
attention and its join, output and add, norm and gate-up and SiLU, down and add. Results are rounded
where the separate kernels round, so that both ways agree.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import require, require_contiguous, require_shape
from enginebench_paged.kernels.configs import FmaConfig, gemv_config
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options

_FALLBACK = FmaConfig(2, 1024, 1, 4)


@triton.jit
def _one_row_kernel(
    x,
    norm,
    weight,
    bias,
    residual,
    out,
    eps,
    N,
    K: tl.constexpr,
    K_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    """out (N,): for GATED, weight has 2 * N rows, and row n of the gate meets row N + n."""
    index = tl.arange(0, ROWS)
    if GATED:  # pairs lie side by side
        output = tl.program_id(0) * (ROWS // 2) + index // 2
        row = output + (index % 2) * N
    else:
        output = tl.program_id(0) * ROWS + index
        row = output
    inside = output < N
    row_at = weight + row.to(tl.int64)[:, None] * K
    column = tl.arange(0, COLUMNS)
    mask = inside[:, None] & (column < K)[None, :]
    w = tl.load(row_at + column[None, :], mask=mask, other=0.0)
    await_previous(PDL)
    scale = 1.0
    if NORM:
        whole = tl.arange(0, K_PAD)
        value = tl.load(x + whole, mask=whole < K, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(value * value, axis=0) / K + eps)
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in tl.range(0, K, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        factor = tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)
        if NORM:
            factor = factor * scale * tl.load(norm + column, mask=column < K, other=0.0)
            factor = factor.to(x.dtype.element_ty).to(tl.float32)
        product = w.to(tl.float32) * factor[None, :]
        column += COLUMNS  # the next weights are asked for before these are summed
        mask = inside[:, None] & (column < K)[None, :]
        w = tl.load(row_at + column[None, :], mask=mask, other=0.0)
        acc += product
    total = tl.sum(acc, axis=1)
    if BIAS:
        total += tl.load(bias + row, mask=inside, other=0.0).to(tl.float32)
    dtype = out.dtype.element_ty
    total = total.to(dtype)
    if GATED:
        gate, up = tl.split(total.to(tl.float32).reshape(ROWS // 2, 2))
        total = (gate / (1.0 + tl.exp(-gate)) * up).to(dtype)
        output = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
        inside = output < N
    if ADD:
        before = tl.load(residual + output, mask=inside, other=0.0)
        total = (total.to(tl.float32) + before.to(tl.float32)).to(dtype)
    tl.store(out + output, total, mask=inside)


def norm_linear(
    x: Tensor, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Twin of reference.norm_linear for one row."""
    return _launch(x, weight, norm=norm, eps=eps, bias=bias)


def norm_linear_silu(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    """Twin of reference.norm_linear_silu for one row."""
    return _launch(x, weight, norm=norm, eps=eps, gated=True)


def linear_add(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """Twin of reference.linear_add for one row."""
    return _launch(x, weight, residual=residual)


def _launch(
    x: Tensor,
    weight: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
) -> Tensor:
    k, rows = x.shape[1], weight.shape[0]
    n = rows // 2 if gated else rows
    require_shape("x", x, 1, k)
    require_shape("weight", weight, rows, k)
    require(rows == (2 * n if gated else n), f"weight has {rows} rows, gate and up need an even n")
    require(x.dtype == weight.dtype, f"x is {x.dtype}, weight is {weight.dtype}; they must agree")
    require_contiguous(x=x, weight=weight)
    if norm is not None:
        require_shape("norm", norm, k)
        require(norm.dtype == torch.float32, f"norm is {norm.dtype}, expected float32")
        require_contiguous(norm=norm)
    if bias is not None:
        require_shape("bias", bias, n)
        require_contiguous(bias=bias)
    if residual is not None:
        require_shape("residual", residual, 1, n)
        require_contiguous(residual=residual)
    out = torch.empty((1, n), dtype=x.dtype, device=x.device)
    config = gemv_config(x.device, 1, rows, k)
    if not isinstance(config, FmaConfig):
        config = _FALLBACK
    tile_rows = max(2, config.rows) if gated else config.rows
    _one_row_kernel[(triton.cdiv(rows, tile_rows),)](
        x,
        x if norm is None else norm,
        weight,
        x if bias is None else bias,
        x if residual is None else residual,
        out,
        eps,
        n,
        K=k,
        K_PAD=triton.next_power_of_2(k),
        ROWS=tile_rows,
        COLUMNS=config.columns,
        NORM=norm is not None,
        GATED=gated,
        ADD=residual is not None,
        BIAS=bias is not None,
        num_warps=config.num_warps,
        **launch_options(x.device),
    )
    return out
