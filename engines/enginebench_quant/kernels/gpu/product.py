"""Products of quantized matrices with one vector, fused with what stands beside them in a layer.

The vector's norm is part of the product: its weights are multiplied in before the vector is
quantized to int8 (a scale for each 32, as the CPU kernels have it), the root mean square at the
end. A program keeps the quantized vector in registers and walks over groups of rows; the next
group's weights are on their way while one is multiplied, and the first group's before the kernel
ahead has ended. A vector that its producer has quantized comes as an Int8Vector.
"""

# mypy: disable-error-code="assignment, var-annotated"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_models.config import Activation
from enginebench_quant.kernels.gpu.codes import (
    load_quantized,
    load_tile,
    quantized,
    store_quantized,
    tile_product,
)
from enginebench_quant.kernels.gpu.configs import ProductConfig, gate_up_config, product_config
from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options
from enginebench_quant.kernels.gpu.device import multiprocessors
from enginebench_quant.kernels.gpu.elementwise import activated
from enginebench_quant.kernels.gpu.planes import BLOCK, Planes
from enginebench_quant.kernels.gpu.vector import Int8Vector

__all__ = ["gate_up", "product"]


@triton.jit
def _norm_weights(norm, BLOCKS: tl.constexpr, BT: tl.constexpr, NORM: tl.constexpr):
    at = tl.arange(0, BT)[:, None] * 32 + tl.arange(0, 32)[None, :]
    if NORM:
        return tl.load(norm + at, mask=at < BLOCKS * 32, other=0.0)
    else:
        return at


@triton.jit
def _activations(
    x, x_scales, x_sums, weights, eps, zero,
    BLOCKS: tl.constexpr, BT: tl.constexpr, NORM: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """x, quantized, and what remains to be multiplied in."""
    if PACKED:
        return load_quantized(x, x_scales, x_sums, zero, BLOCKS, BT), 1.0
    else:
        return _quantized_here(x, weights, eps, BLOCKS, BT, NORM)


@triton.jit
def _quantized_here(x, weights, eps, BLOCKS: tl.constexpr, BT: tl.constexpr, NORM: tl.constexpr):
    at = tl.arange(0, BT)[:, None] * 32 + tl.arange(0, 32)[None, :]
    v = tl.load(x + at, mask=at < BLOCKS * 32, other=0.0)
    factor = 1.0
    if NORM:
        mean = tl.sum(tl.sum(v * v, axis=1), axis=0) / (BLOCKS * 32)
        factor = tl.rsqrt(mean + eps)
        v = v * weights
    return quantized(v, BT), factor


@triton.jit
def _tile_at(
    planes, first, rows, zero,
    BLOCKS: tl.constexpr, BT: tl.constexpr, R: tl.constexpr, CODES: tl.constexpr,
    SCALES: tl.constexpr,
):  # fmt: skip
    row = first + tl.arange(0, R)
    block = tl.arange(0, BT)
    inside = (row < rows)[None, :, None]
    if BLOCKS != BT:
        inside = inside & (block < BLOCKS)[:, None, None]
    codes, high, scales, supers = planes
    return load_tile(
        codes, high, scales, supers, row, block, inside, zero, BLOCKS, CODES, SCALES
    )  # fmt: skip


@triton.jit
def _walk(
    x, x_scales, x_sums, norm, eps, planes, bias, out, out_stride, rows, zero, program, programs,
    T: tl.constexpr, BLOCKS: tl.constexpr, BT: tl.constexpr, R: tl.constexpr, CODES: tl.constexpr,
    SCALES: tl.constexpr, ZERO: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    ADD: tl.constexpr, PACKED: tl.constexpr, NATIVE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program's share of the rows of one matrix."""
    tile = _tile_at(planes, program * R, rows, zero, BLOCKS, BT, R, CODES, SCALES)
    weights = _norm_weights(norm, BLOCKS, BT, NORM)
    await_previous(PDL)
    STRIDE: tl.constexpr = BLOCKS * 8 if PACKED else BLOCKS * 32
    vectors = ()
    for t in tl.static_range(T):
        vectors = vectors + (  # noqa: RUF005
            _activations(
                x + t * STRIDE, x_scales + t * BLOCKS, x_sums + t * BLOCKS, weights, eps, zero,
                BLOCKS, BT, NORM, PACKED,
            ),
        )  # fmt: skip
    for first in tl.range(program * R, rows, programs * R):
        current = tile
        tile = _tile_at(planes, first + programs * R, rows, zero, BLOCKS, BT, R, CODES, SCALES)
        row = first + tl.arange(0, R)
        for t in tl.static_range(T):
            own = out + t * out_stride
            base = tl.zeros((R,), tl.float32)  # asked for before the product, to hide its latency
            if BIAS:
                base += tl.load(bias + row, mask=row < rows, other=0.0)
            if ADD:
                base += tl.load(own + row, mask=row < rows, other=0.0)
            v, factor = vectors[t]
            y = base + tile_product(current, v, R, CODES, SCALES, ZERO, NATIVE) * factor
            tl.store(own + row, y, mask=row < rows)


@triton.jit
def _product_kernel(
    x, x_scales, x_sums, norm, eps, bias, out, out_stride, zero,
    codes, high, scales, supers, rows, programs,
    below_codes, below_high, below_scales, below_supers, below_rows, below_programs,
    T: tl.constexpr, BLOCKS: tl.constexpr, BT: tl.constexpr, R: tl.constexpr,
    CODES: tl.constexpr, SCALES: tl.constexpr, ZERO: tl.constexpr,
    BELOW: tl.constexpr, BELOW_CODES: tl.constexpr, BELOW_SCALES: tl.constexpr,
    BELOW_ZERO: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr,
    PACKED: tl.constexpr, NATIVE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    upper = (codes, high, scales, supers)
    lower = (below_codes, below_high, below_scales, below_supers)
    if BELOW:
        if program < programs:
            _walk(
                x, x_scales, x_sums, norm, eps, upper, bias, out, out_stride, rows, zero, program,
                programs, T, BLOCKS, BT, R, CODES, SCALES, ZERO, NORM, BIAS, ADD, PACKED, NATIVE,
                PDL,
            )  # fmt: skip
        else:
            _walk(
                x, x_scales, x_sums, norm, eps, lower, bias + rows, out + rows, out_stride,
                below_rows, zero, program - programs, below_programs, T, BLOCKS, BT, R,
                BELOW_CODES, BELOW_SCALES, BELOW_ZERO, NORM, BIAS, ADD, PACKED, NATIVE, PDL,
            )  # fmt: skip
    else:
        _walk(
            x, x_scales, x_sums, norm, eps, upper, bias, out, out_stride, rows, zero, program,
            programs, T, BLOCKS, BT, R, CODES, SCALES, ZERO, NORM, BIAS, ADD, PACKED, NATIVE, PDL,
        )  # fmt: skip


@triton.jit
def _gate_up_kernel(
    x, norm, eps, out, out_scales, out_sums, zero,
    codes, high, scales, supers, up_codes, up_high, up_scales, up_supers, rows, units, programs,
    T: tl.constexpr, BLOCKS: tl.constexpr, BT: tl.constexpr, R: tl.constexpr, UNIT: tl.constexpr,
    CODES: tl.constexpr, SCALES: tl.constexpr, ZERO: tl.constexpr,
    UP_CODES: tl.constexpr, UP_SCALES: tl.constexpr, UP_ZERO: tl.constexpr,
    GELU: tl.constexpr, PACKED: tl.constexpr, NATIVE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A program walks over units of UNIT rows, R at a time; a packed output is a block a unit."""
    program = tl.program_id(0)
    gates = (codes, high, scales, supers)
    ups = (up_codes, up_high, up_scales, up_supers)
    gate = _tile_at(gates, program * UNIT, rows, zero, BLOCKS, BT, R, CODES, SCALES)
    up = _tile_at(ups, program * UNIT, rows, zero, BLOCKS, BT, R, UP_CODES, UP_SCALES)
    weights = _norm_weights(norm, BLOCKS, BT, True)
    await_previous(PDL)
    STEPS: tl.constexpr = UNIT // R
    vectors = ()
    inners = ()
    for t in tl.static_range(T):
        vectors = vectors + (  # noqa: RUF005
            _quantized_here(x + t * BLOCKS * 32, weights, eps, BLOCKS, BT, True),
        )  # fmt: skip
        inners = inners + (tl.zeros((UNIT,), tl.float32),)  # noqa: RUF005
    steps = tl.cdiv(units - program, programs) * STEPS
    for index in tl.range(0, steps):
        this_gate = gate
        this_up = up
        following = (program + (index + 1) // STEPS * programs) * UNIT + (index + 1) % STEPS * R
        gate = _tile_at(gates, following, rows, zero, BLOCKS, BT, R, CODES, SCALES)
        up = _tile_at(ups, following, rows, zero, BLOCKS, BT, R, UP_CODES, UP_SCALES)
        unit = program + index // STEPS * programs
        updated = ()
        for t in tl.static_range(T):
            v, factor = vectors[t]
            g = tile_product(this_gate, v, R, CODES, SCALES, ZERO, NATIVE) * factor
            u = tile_product(this_up, v, R, UP_CODES, UP_SCALES, UP_ZERO, NATIVE) * factor
            y = activated(g, GELU) * u
            inner = inners[t]
            if PACKED:
                every = tl.reshape(tl.broadcast_to(y[None, :], (STEPS, R)), (UNIT,))
                inner = tl.where(tl.arange(0, UNIT) // R == index % STEPS, every, inner)
                if index % STEPS == STEPS - 1:
                    block = tl.reshape(inner, (1, UNIT))
                    store_quantized(
                        block, out + t * units * 8, out_scales + t * units, out_sums + t * units,
                        unit, units, 1,
                    )  # fmt: skip
            else:
                row = unit * UNIT + index % STEPS * R + tl.arange(0, R)
                tl.store(out + t * rows + row, y, mask=row < rows)
            updated = updated + (inner,)  # noqa: RUF005
        inners = updated


def product(
    x: Tensor | Int8Vector,
    matrices: Sequence[Planes],
    out: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    add: bool = False,
    config: ProductConfig | None = None,
) -> None:
    """Twin of reference.product for one or two matrices (a second follows the first's rows)."""
    packed = isinstance(x, Int8Vector)
    if packed and norm is not None:
        raise ValueError("a vector that is quantized already cannot be normed")
    upper, lower = matrices[0], matrices[-1]
    if len(matrices) > 2:
        raise ValueError(f"one launch multiplies one or two matrices, not {len(matrices)}")
    rows = sum(matrix.rows for matrix in matrices)
    count = 1 if len(x.shape) == 1 else x.shape[0]
    _check(x, out, matrices, rows)
    config = config or product_config(rows, upper.blocks)
    most = multiprocessors(x.device) * config.programs_per_sm
    groups = [triton.cdiv(matrix.rows, config.rows) for matrix in matrices]
    programs = _shares(groups, [matrix.n_bytes for matrix in matrices], most)
    source = x.tensors if isinstance(x, Int8Vector) else (x, x, x)
    _product_kernel[(sum(programs),)](
        *source, source[0] if norm is None else norm, eps, out if bias is None else bias, out,
        out.stride(0) if count > 1 else 0, 0,
        *upper.tensors, upper.rows, programs[0], *lower.tensors, lower.rows, programs[-1],
        T=count, BLOCKS=upper.blocks, BT=triton.next_power_of_2(upper.blocks), R=config.rows,
        CODES=upper.format.codes, SCALES=upper.format.scales, ZERO=upper.format.zero,
        BELOW=len(matrices) == 2, BELOW_CODES=lower.format.codes,
        BELOW_SCALES=lower.format.scales, BELOW_ZERO=lower.format.zero,
        NORM=norm is not None, BIAS=bias is not None, ADD=add, PACKED=packed, NATIVE=x.is_cuda,
        num_warps=config.num_warps, **launch_options(x.device),
    )  # fmt: skip


def gate_up(
    x: Tensor,
    gate: Planes,
    up: Planes,
    out: Tensor | Int8Vector,
    *,
    norm: Tensor,
    eps: float,
    activation: Activation = "silu",
    config: ProductConfig | None = None,
) -> None:
    """Twin of reference.gate_up."""
    _check(x, out, (gate, up), gate.rows)
    config = config or gate_up_config(gate.blocks, is_super=gate.format.file_values > BLOCK)
    packed = isinstance(out, Int8Vector)
    unit = BLOCK if packed else config.rows
    units = triton.cdiv(gate.rows, unit)
    programs = min(units, multiprocessors(x.device) * config.programs_per_sm)
    target = out.tensors if isinstance(out, Int8Vector) else (out, out, out)
    _gate_up_kernel[(programs,)](
        x, norm, eps, *target, 0, *gate.tensors, *up.tensors, gate.rows, units, programs,
        T=1 if len(x.shape) == 1 else x.shape[0], BLOCKS=gate.blocks,
        BT=triton.next_power_of_2(gate.blocks), R=config.rows, UNIT=unit,
        CODES=gate.format.codes, SCALES=gate.format.scales, ZERO=gate.format.zero,
        UP_CODES=up.format.codes, UP_SCALES=up.format.scales, UP_ZERO=up.format.zero,
        GELU=activation == "gelu_tanh", PACKED=packed, NATIVE=x.is_cuda,
        num_warps=config.num_warps, **launch_options(x.device),
    )  # fmt: skip


def _shares(groups: list[int], sizes: list[int], most: int) -> list[int]:
    """Programs of each matrix: no more than it has groups of rows, else by bytes."""
    if sum(groups) <= most:
        return groups
    pairs = zip(groups, sizes, strict=True)
    return [max(1, min(count, round(most * size / sum(sizes)))) for count, size in pairs]


def _check(
    x: Tensor | Int8Vector, out: Tensor | Int8Vector, matrices: Sequence[Planes], rows: int
) -> None:
    for matrix in matrices:
        if x.shape[-1] != matrix.columns:
            raise ValueError(f"x has shape {tuple(x.shape)}, the matrix {matrix.columns} columns")
    if tuple(out.shape) != (*x.shape[:-1], rows):
        raise ValueError(f"out has shape {tuple(out.shape)}, the matrices have {rows} rows")
    for name, vector in (("x", x), ("out", out)):
        for tensor in vector.tensors if isinstance(vector, Int8Vector) else (vector,):
            if tensor.stride(-1) != 1:
                raise ValueError(f"{name} must be contiguous")
        if isinstance(vector, Tensor) and vector.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, it is {vector.dtype}")
