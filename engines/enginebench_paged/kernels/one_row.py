"""The products of a single row with what follows them: a decode step of one sequence.

There every kernel between two products costs more by starting than by working, so SiLU and the
addition to the residual stream are done before a product is stored. Results are rounded where the
separate kernels round, so that both ways agree.

The norm before a product is left to its own kernel: computed by each program over again it made a
step of Qwen2.5-3B slower on an H100 (2.76 ms instead of 2.70), since a program of two rows then
reads the row and the norm's weights as well, from L2 three bytes for each byte of its own.
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
    weight,
    residual,
    out,
    N,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
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
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in tl.range(0, K, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        factor = tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)
        product = w.to(tl.float32) * factor[None, :]
        column += COLUMNS  # the next weights are asked for before these are summed
        mask = inside[:, None] & (column < K)[None, :]
        w = tl.load(row_at + column[None, :], mask=mask, other=0.0)
        acc += product
    total = tl.sum(acc, axis=1)
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


def linear_silu(x: Tensor, weight: Tensor) -> Tensor:
    """Twin of reference.linear_silu for one row."""
    rows = weight.shape[0]
    require(rows % 2 == 0, f"weight has {rows} rows; gate and up need an even number")
    return _launch(x, weight, None, gated=True)


def linear_add(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """Twin of reference.linear_add for one row."""
    require_shape("residual", residual, 1, weight.shape[0])
    require_contiguous(residual=residual)
    return _launch(x, weight, residual, gated=False)


def _launch(x: Tensor, weight: Tensor, residual: Tensor | None, *, gated: bool) -> Tensor:
    k, rows = x.shape[1], weight.shape[0]
    n = rows // 2 if gated else rows
    require_shape("x", x, 1, k)
    require_shape("weight", weight, rows, k)
    require(x.dtype == weight.dtype, f"x is {x.dtype}, weight is {weight.dtype}; they must agree")
    require_contiguous(x=x, weight=weight)
    out = torch.empty((1, n), dtype=x.dtype, device=x.device)
    config = gemv_config(x.device, 1, rows, k)
    if not isinstance(config, FmaConfig):
        config = _FALLBACK
    tile_rows = max(2, config.rows) if gated else config.rows
    _one_row_kernel[(triton.cdiv(rows, tile_rows),)](
        x,
        weight,
        x if residual is None else residual,
        out,
        n,
        K=k,
        ROWS=tile_rows,
        COLUMNS=config.columns,
        GATED=gated,
        ADD=residual is not None,
        num_warps=config.num_warps,
        **launch_options(x.device),
    )
    return out
