"""SiLU or GELU of one half of the merged gate-up product times the other half."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import require, require_contiguous, require_shape
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options


@triton.jit
def _silu_mul_kernel(gate_up, out, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COLUMNS
    source = gate_up + row * (2 * COLUMNS) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + COLUMNS, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * COLUMNS + column, product.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_mul_kernel(gate_up, out, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COLUMNS
    source = gate_up + row * (2 * COLUMNS) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + COLUMNS, mask=inside, other=0.0).to(tl.float32)
    # (1 + tanh(u)) / 2 = sigmoid(2 * u), with u = sqrt(2 / pi) * (x + 0.044715 * x ** 3)
    twice = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    product = gate / (1.0 + tl.exp(tl.minimum(-twice, 80.0))) * up
    tl.store(out + row * COLUMNS + column, product.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Twin of reference.silu_mul: gate_up (T, 2 * I) to (T, I)."""
    return _launch(_silu_mul_kernel, gate_up, out)


def gelu_mul(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Twin of reference.gelu_mul: gate_up (T, 2 * I) to (T, I)."""
    return _launch(_gelu_mul_kernel, gate_up, out)


def _launch(kernel: Any, gate_up: Tensor, out: Tensor | None) -> Tensor:
    require(gate_up.dim() == 2, f"gate_up has shape {tuple(gate_up.shape)}, expected (T, 2 * I)")
    require(gate_up.shape[1] % 2 == 0, f"gate_up has an odd width of {gate_up.shape[1]}")
    require_contiguous(gate_up=gate_up)
    n_rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    if out is None:
        out = torch.empty((n_rows, columns), dtype=gate_up.dtype, device=gate_up.device)
    require_shape("out", out, n_rows, columns)
    require_contiguous(out=out)
    if n_rows:
        block = 1024 if n_rows > 16 else 256  # few rows: more programs share the latency
        grid = (n_rows, triton.cdiv(columns, block))
        options = launch_options(gate_up.device)
        kernel[grid](gate_up, out, COLUMNS=columns, BLOCK=block, num_warps=block // 256, **options)
    return out
