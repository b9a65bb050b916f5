"""Products with weights of 8 or 4 bits, turned into numbers in registers: x (M, K) times W (N, K)
transposed.

Integers less their zero are exact in any 16-bit type, a zero in sixteenths too; the scale of a
group multiplies its sum in float32. As in `gemv`, W is the tall operand, so that what was just
unpacked goes from registers to the matrix units, for few columns (rows of x) and for many. A single
row goes to the vector units.
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
from enginebench_paged.kernels.configs import QuantizedConfig, quantized_config
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options
from enginebench_paged.kernels.gemv import _store, sum_parts
from enginebench_paged.kernels.quantized_weight import QuantizedWeight

_ROW_GROUP = 128  # columns a step where a row has one scale


@triton.jit
def _raw_halves(
    at, half, inside, left, HALF: tl.constexpr, BITS: tl.constexpr, EVEN_K: tl.constexpr
):
    """Both halves of groups of which `left` columns remain, as they lie at `at`."""
    if BITS == 4:
        low = tl.load(at + half, mask=inside, other=0)
        high = low
    elif EVEN_K:
        low = tl.load(at + half, mask=inside, other=0.0)
        high = tl.load(at + HALF + half, mask=inside, other=0.0)
    else:
        low = tl.load(at + half, mask=inside & (half < left), other=0.0)
        high = tl.load(at + HALF + half, mask=inside & (half + HALF < left), other=0.0)
    return low, high


@triton.jit
def _zero(at, mask, BITS: tl.constexpr):
    zero = tl.load(at, mask=mask, other=0).to(tl.float32)
    return zero / 16 if BITS == 4 else zero


@triton.jit
def _numbers(low, high, zero, BITS: tl.constexpr, PER_ROW: tl.constexpr, dtype: tl.constexpr):
    """What those are, less their zero; whole groups' scales are not in it."""
    if BITS == 4:
        high = high >> 4
        low = low & 15
    if PER_ROW:
        return low.to(dtype), high.to(dtype)
    else:
        return low.to(dtype) - zero.to(dtype), high.to(dtype) - zero.to(dtype)


@triton.jit
def weight_halves(
    values, zeros, row, inside, group, value_stride, n_groups, K: tl.constexpr,
    GROUP: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr, PER_ROW: tl.constexpr,
    ZEROS: tl.constexpr, EVEN_K: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Both halves (rows, GROUP / 2) of a group of columns, for rows (int64) of W."""
    HALF: tl.constexpr = GROUP // 2
    half = tl.arange(0, HALF)[None, :]
    at = (values + row * value_stride)[:, None] + group * (GROUP * BITS // 8)
    left = K - group * GROUP
    low, high = _raw_halves(at, half, inside[:, None], left, HALF, BITS, EVEN_K)
    zero = tl.full(row.shape, MIDDLE, tl.float32)
    if ZEROS:
        zero = _zero(zeros + row * n_groups + group, inside, BITS)
    return _numbers(low, high, zero[:, None], BITS, PER_ROW, dtype)


@triton.jit
def _vector_tile(
    values, scales, zeros, row, inside, start, end, value_stride, n_groups, K: tl.constexpr,
    GROUP: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr, PER_ROW: tl.constexpr,
    ZEROS: tl.constexpr, EVEN_K: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """DEPTH groups of some rows: both raw halves (rows, DEPTH, GROUP / 2), scales, zeros."""
    HALF: tl.constexpr = GROUP // 2
    half = tl.arange(0, HALF)[None, None, :]
    group = start + tl.arange(0, DEPTH)
    real = inside[:, None] & (group < end)[None, :]
    at = (values + row * value_stride)[:, None, None]
    at += (group * (GROUP * BITS // 8))[None, :, None]
    left = (K - group * GROUP)[None, :, None]
    low, high = _raw_halves(at, half, real[:, :, None], left, HALF, BITS, EVEN_K)
    place = (row * n_groups)[:, None] + group[None, :]
    scale = tl.where(real, 1.0, 0.0)
    zero = tl.full(real.shape, MIDDLE, tl.float32)
    if not PER_ROW:
        scale = tl.load(scales + place, mask=real, other=0.0).to(tl.float32)
    if ZEROS:
        zero = _zero(zeros + place, real, BITS)
    return low, high, scale, zero


@triton.jit
def _vector_kernel(
    x, values, scales, zeros, bias, out, N, groups_each, value_stride, n_groups,
    K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr,
    PER_ROW: tl.constexpr, ZEROS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
    EVEN_K: tl.constexpr, SPLIT: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    inside = row < N
    long_row = row.to(tl.int64)
    acc = tl.zeros((ROWS, DEPTH, GROUP // 2), tl.float32)
    begin = part * groups_each
    end = tl.minimum(begin + groups_each, n_groups)
    low, high, scale, zero = _vector_tile(
        values, scales, zeros, long_row, inside, begin, end, value_stride, n_groups,
        K, GROUP, BITS, MIDDLE, PER_ROW, ZEROS, EVEN_K, DEPTH,
    )  # fmt: skip
    await_previous(PDL)
    for start in tl.range(begin, end, DEPTH):
        group = start + tl.arange(0, DEPTH)
        k = group[:, None] * GROUP + tl.arange(0, GROUP // 2)[None, :]
        real = (group < end)[:, None]
        x_low = tl.load(x + k, mask=real & (k < K), other=0.0).to(tl.float32)
        k += GROUP // 2
        x_high = tl.load(x + k, mask=real & (k < K), other=0.0).to(tl.float32)
        w_low, w_high = _numbers(low, high, zero[:, :, None], BITS, PER_ROW, tl.float32)
        product = w_low * x_low[None, :, :] + w_high * x_high[None, :, :]
        product *= scale[:, :, None]
        low, high, scale, zero = _vector_tile(  # the next ones, before these are summed
            values, scales, zeros, long_row, inside, start + DEPTH, end, value_stride, n_groups,
            K, GROUP, BITS, MIDDLE, PER_ROW, ZEROS, EVEN_K, DEPTH,
        )  # fmt: skip
        acc += product
    total = tl.sum(tl.sum(acc, axis=2), axis=1)
    if PER_ROW:
        total *= tl.load(scales + row, mask=inside, other=0.0)
    _store(out, bias, total, row, inside, 0, 1, N, part, SPLIT, BIAS)


@triton.jit(do_not_specialize=["M"])
def _matrix_kernel(
    x, values, scales, zeros, bias, out, M, N, x_stride, groups_each, value_stride, n_groups,
    K: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr,
    PER_ROW: tl.constexpr, ZEROS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    EVEN_K: tl.constexpr, SPLIT: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    HALF: tl.constexpr = GROUP // 2
    m = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(2)
    inside = row < N
    long_row = row.to(tl.int64)
    half = tl.arange(0, HALF)
    x_at = x + m.to(tl.int64)[None, :] * x_stride
    dtype: tl.constexpr = x.dtype.element_ty
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    begin = part * groups_each
    for group in tl.range(begin, tl.minimum(begin + groups_each, n_groups)):
        k = (group * GROUP + half)[:, None]
        low, high = weight_halves(
            values, zeros, long_row, inside, group, value_stride, n_groups,
            K, GROUP, BITS, MIDDLE, PER_ROW, ZEROS, EVEN_K, dtype,
        )  # fmt: skip
        if EVEN_K:
            x_low = tl.load(x_at + k, mask=(m < M)[None, :], other=0.0)  # (HALF, COLUMNS)
            x_high = tl.load(x_at + HALF + k, mask=(m < M)[None, :], other=0.0)
        else:
            x_low = tl.load(x_at + k, mask=(m < M)[None, :] & (k < K), other=0.0)
            x_high = tl.load(x_at + HALF + k, mask=(m < M)[None, :] & (k + HALF < K), other=0.0)
        if PER_ROW:
            acc = tl.dot(low, x_low, acc, input_precision="ieee")
            acc = tl.dot(high, x_high, acc, input_precision="ieee")
        else:
            product = tl.dot(low, x_low, input_precision="ieee")
            product = tl.dot(high, x_high, product, input_precision="ieee")
            scale = tl.load(scales + long_row * n_groups + group, mask=inside, other=0.0)
            acc += product * scale.to(tl.float32)[:, None]
    if PER_ROW:
        acc *= tl.load(scales + row, mask=inside, other=0.0)[:, None]
    mask = inside[:, None] & (m < M)[None, :]
    _store(out, bias, acc, row[:, None], mask, m.to(tl.int64)[None, :], M, N, part, SPLIT, BIAS)


def weight_tensors(weight: QuantizedWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Values, scales, zeros as kernels take them."""
    require_contiguous(values=weight.values, scales=weight.scales)
    if weight.zeros is None:
        return weight.values, weight.scales, weight.values
    require_contiguous(zeros=weight.zeros)
    return weight.values, weight.scales, weight.zeros


def group_count(weight: QuantizedWeight) -> int:
    """Steps that a row's columns take."""
    return triton.cdiv(weight.columns, weight.format.group or _ROW_GROUP)


def format_constants(weight: QuantizedWeight) -> dict[str, int]:
    """What `weight_halves` needs to know beforehand, but K."""
    held = weight.format
    group = held.group or _ROW_GROUP
    return {
        "GROUP": group, "BITS": held.bits, "MIDDLE": held.middle, "PER_ROW": held.group is None,
        "ZEROS": held.has_zeros, "EVEN_K": weight.columns % group == 0,
    }  # fmt: skip


def quantized_linear(
    x: Tensor,
    weight: QuantizedWeight,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    config: QuantizedConfig | None = None,
) -> Tensor:
    """Twin of reference.quantized_linear, except that fp8 weights meet x as it is."""
    (m, k), n = x.shape, weight.rows
    require(x.shape[1] == weight.columns, f"x has {k} columns, the weight {weight.columns}")
    require(weight.values.dim() == 2, "a stack of weights is for grouped_linear")
    require_dense_rows(x=x)
    if bias is not None:
        require_shape("bias", bias, n)
        require_contiguous(bias=bias)
    if out is None:
        out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    require_shape("out", out, m, n)
    require_contiguous(out=out)
    if m == 0:
        return out
    if config is None:
        config = quantized_config(x.device, m, n)
    groups = group_count(weight)
    parts = min(config.split_k, groups)
    split, options = parts > 1, launch_options(x.device)
    some_bias, target = out if bias is None else bias, out
    if split:
        target = torch.empty((parts, m, n), dtype=torch.float32, device=x.device)
    tensors = (x, *weight_tensors(weight))
    constants = {
        "K": k, "ROWS": config.rows, "SPLIT": split, "BIAS": bias is not None,
        "num_warps": config.num_warps, **format_constants(weight), **options,
    }  # fmt: skip
    sizes = (triton.cdiv(groups, parts), weight.values.stride(0), groups)
    tall = triton.cdiv(n, config.rows)
    if config.columns == 1:
        require(m == 1, f"the vector units' product takes one row, x has {m}")
        _vector_kernel[(tall, parts)](
            *tensors, some_bias, target, n, *sizes, DEPTH=config.depth, **constants
        )
    else:
        _matrix_kernel[(triton.cdiv(m, config.columns), tall, parts)](
            *tensors, some_bias, target, m, n, x.stride(0), *sizes,
            COLUMNS=config.columns, num_stages=config.num_stages, **constants,
        )  # fmt: skip
    if split:
        sum_parts(target, bias, out)
    return out
