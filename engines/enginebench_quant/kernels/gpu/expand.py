"""Packed rows written out as bf16 or f32: whole matrices for the library's product, and the
embeddings of tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_quant.kernels.gpu.codes import is_signed, load_tile, tile_scales, tile_words
from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options
from enginebench_quant.kernels.gpu.planes import Planes

__all__ = ["expand"]


@triton.jit
def _half_values(words, scale, minimum, zero_code, BT: tl.constexpr, R: tl.constexpr,
                 SIGNED: tl.constexpr, AFFINE: tl.constexpr):  # fmt: skip
    """The 16 values of each half block, (blocks, rows, 16) f32, from codes (blocks, rows, 4)."""
    shift = (tl.arange(0, 4) * 8)[None, None, None, :]
    code = (tl.reshape(words, (BT, R, 4, 1)) >> shift) & 0xFF
    if SIGNED:
        code = (code ^ 0x80) - 0x80
    value = tl.reshape((code - zero_code).to(tl.float32), (BT, R, 16)) * scale
    if AFFINE:
        value += minimum
    return value


@triton.jit
def _expand_kernel(
    codes, high, scales, supers, ids, out, rows, zero,
    BLOCKS: tl.constexpr, BT: tl.constexpr, R: tl.constexpr, CODES: tl.constexpr,
    SCALES: tl.constexpr, ZERO: tl.constexpr, CHOSEN: tl.constexpr, NATIVE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    target = tl.program_id(0) * R + tl.arange(0, R)
    block = tl.program_id(1) * BT + tl.arange(0, BT)
    row = target
    if CHOSEN:
        row = tl.load(ids + target, mask=target < rows, other=0)
    inside = (target < rows)[None, :, None] & (block < BLOCKS)[:, None, None]
    low, first_high, second_high, scale, over = load_tile(
        codes, high, scales, supers, row, block, inside, zero, BLOCKS, CODES, SCALES
    )
    first, second = tile_words(low, first_high, second_high, CODES, NATIVE)
    first_scale, second_scale, minimum = tile_scales(scale, over, SCALES)
    AFFINE: tl.constexpr = (SCALES == "dm") | (SCALES == "k")
    first = _half_values(first, first_scale, minimum, ZERO, BT, R, is_signed(CODES), AFFINE)
    second = _half_values(second, second_scale, minimum, ZERO, BT, R, is_signed(CODES), AFFINE)
    at = (target.to(tl.int64)[None, :, None] * BLOCKS + block[:, None, None]) * 32
    at = at + tl.arange(0, 16)[None, None, :]
    tl.store(out + at, first.to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + 16, second.to(out.dtype.element_ty), mask=inside)


def expand(matrix: Planes, out: Tensor, *, ids: Tensor | None = None) -> None:
    """Twin of reference.expand: all rows of `matrix`, or rows `ids` (i32 or i64), into `out`."""
    rows = matrix.rows if ids is None else ids.shape[0]
    if out.shape != (rows, matrix.columns) or not out.is_contiguous():
        raise ValueError(
            f"out is {tuple(out.shape)}, expected contiguous ({rows}, {matrix.columns})"
        )
    if rows == 0:
        return
    tile = min(64, triton.next_power_of_2(matrix.blocks))
    rows_each = 1 if ids is not None else max(1, 256 // tile)
    form = matrix.format
    _expand_kernel[(triton.cdiv(rows, rows_each), triton.cdiv(matrix.blocks, tile))](
        *matrix.tensors, matrix.codes if ids is None else ids, out, rows, 0,
        BLOCKS=matrix.blocks, BT=tile, R=rows_each, CODES=form.codes, SCALES=form.scales,
        ZERO=form.zero, CHOSEN=ids is not None, NATIVE=out.is_cuda,
        num_warps=4 if ids is None else 2,
        **launch_options(out.device),
    )  # fmt: skip
    assert out.dtype in (torch.bfloat16, torch.float16, torch.float32)
