"""Row-wise kernels between the matrix products: norm, activation, quantization.

Rows of floats are padded to whole blocks of 32 with zeros, so that no loop here has a tail.
Quantized activations of a tile of `tile` tokens lie step by step: (blocks, tile, BLOCK_BYTES).
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.activations import (
    BLOCK,
    BLOCK_BYTES,
    NEG_FIRST_SUM_AT,
    NEG_SUM_AT,
    SCALE_AT,
    SCALED_SUM_AT,
)
from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.memory import KERNEL, f32_from_bits, peek
from enginebench_quant.kernels.simd import F32, I8, I64, Simd, vector

__all__ = [
    "add_scaled_row",
    "build_gate",
    "build_norm",
    "build_norm_add",
    "build_quantize",
    "dot_rows",
    "quantize_block",
]


@intrinsic(prefer_literal=True)
def sum_squares(typingctx, level, x, count):
    """Sum of the squares of `count` floats, a multiple of the vector width."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        zero = ir.Constant(v.f32, [0.0] * v.lanes)
        total = cgutils.alloca_once_value(builder, zero)
        vectors = builder.sdiv(args[2], v.const(v.lanes))
        with cgutils.for_range(builder, vectors, intp=I64) as loop:
            value = v.load(builder.add(args[1], builder.mul(loop.index, v.const(v.bytes))), v.f32)
            builder.store(v.fma(value, value, builder.load(total)), total)
        return v.first(v.horizontal(builder.load(total), builder.fadd))

    return types.float32(level, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def scale_row(typingctx, level, x, weight, factor, out, count):
    """out = x * factor * weight, over `count` floats."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, x, weight, factor, out, count = args
        factor = v.broadcast(factor)
        with cgutils.for_range(builder, builder.sdiv(count, v.const(v.lanes)), intp=I64) as loop:
            at = builder.mul(loop.index, v.const(v.bytes))
            scaled = builder.fmul(v.load(builder.add(x, at), v.f32), factor)
            weighted = builder.fmul(scaled, v.load(builder.add(weight, at), v.f32))
            v.store(weighted, builder.add(out, at))
        return context.get_dummy_value()

    signature = types.void(level, types.int64, types.int64, types.float32, types.int64, types.int64)
    return signature, codegen


@intrinsic(prefer_literal=True)
def add_scaled_row(typingctx, level, x, factor, out, count):
    """out += x * factor, over `count` floats."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, x, factor, out, count = args
        factor = v.broadcast(factor)
        with cgutils.for_range(builder, builder.sdiv(count, v.const(v.lanes)), intp=I64) as loop:
            at = builder.mul(loop.index, v.const(v.bytes))
            target = builder.add(out, at)
            value = v.load(builder.add(x, at), v.f32)
            v.store(v.fma(value, factor, v.load(target, v.f32)), target)
        return context.get_dummy_value()

    return types.void(level, types.int64, types.float32, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def dot_rows(typingctx, level, x, y, count):
    """The sum of products of `count` floats."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, x, y, count = args
        total = cgutils.alloca_once_value(builder, ir.Constant(v.f32, [0.0] * v.lanes))
        with cgutils.for_range(builder, builder.sdiv(count, v.const(v.lanes)), intp=I64) as loop:
            at = builder.mul(loop.index, v.const(v.bytes))
            first, second = v.load(builder.add(x, at), v.f32), v.load(builder.add(y, at), v.f32)
            builder.store(v.fma(first, second, builder.load(total)), total)
        return v.first(v.horizontal(builder.load(total), builder.fadd))

    return types.float32(level, types.int64, types.int64, types.int64), codegen


def _silu_exponent(v, x):
    return v.b.fneg(x)


def _gelu_exponent(v, x):
    """-2 u, where gelu is x * (1 + tanh(u)) / 2 and u = sqrt(2 / pi) * (x + 0.044715 * x ** 3)."""
    inner = v.fma(v.b.fmul(x, x), v.splat(F32, 0.044715), v.splat(F32, 1.0))
    return v.b.fmul(v.b.fmul(x, inner), v.splat(F32, -2.0 * math.sqrt(2.0 / math.pi)))


_EXPONENTS = {"silu": _silu_exponent, "gelu_tanh": _gelu_exponent}


@intrinsic(prefer_literal=True)
def gate_block(typingctx, level, activation, gate, up, out):
    """out = gate / (1 + exp(e)) * up, over one block of 32 floats; e tells activations apart."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, _, gate, up, out = args
        exponent = _EXPONENTS[activation.literal_value]
        for at in range(0, 4 * BLOCK, v.bytes):
            x = v.load(v.at(gate, at), v.f32)
            denominator = builder.fadd(v.splat(F32, 1.0), v.exp(exponent(v, x)))
            active = builder.fdiv(x, denominator)
            v.store(builder.fmul(active, v.load(v.at(up, at), v.f32)), v.at(out, at))
        return context.get_dummy_value()

    return types.void(level, activation, types.int64, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def quantize_block(typingctx, level, x, out):
    """32 floats -> one activation block, as `activations.py` describes it."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, x, out = args
        parts = [v.load(v.at(x, at), v.f32) for at in range(0, 4 * BLOCK, v.bytes)]
        largest = v.abs(parts[0])
        for part in parts[1:]:
            largest = v.max(largest, v.abs(part))
        largest = v.first(v.horizontal(largest, v.max))
        scale = builder.fmul(largest, ir.Constant(F32, 1.0 / 127.0))
        is_zero = builder.fcmp_ordered("==", largest, ir.Constant(F32, 0.0))
        inverse = builder.fdiv(ir.Constant(F32, 127.0), largest)
        inverse = v.broadcast(builder.select(is_zero, ir.Constant(F32, 0.0), inverse))
        total = first_half = ir.Constant(v.i32, [0] * v.lanes)
        for index, part in enumerate(parts):
            rounded = v.call(f"llvm.nearbyint.v{v.lanes}f32", v.f32, builder.fmul(part, inverse))
            codes = builder.fptosi(rounded, v.i32)
            total = builder.add(total, codes)
            if 2 * (index + 1) == len(parts):
                first_half = total
            v.store(builder.trunc(codes, vector(I8, v.lanes)), v.at(out, index * v.lanes))
        total = v.first(v.horizontal(total, builder.add))
        v.store(scale, v.at(out, SCALE_AT), align=4)
        v.store(builder.fmul(scale, builder.sitofp(total, F32)), v.at(out, SCALED_SUM_AT), align=4)
        v.store(builder.neg(total), v.at(out, NEG_SUM_AT), align=4)
        first_half = v.first(v.horizontal(first_half, builder.add))
        v.store(builder.neg(first_half), v.at(out, NEG_FIRST_SUM_AT), align=4)
        return context.get_dummy_value()

    return types.void(level, types.int64, types.int64), codegen


@njit(inline="always")
def quantized_row(base, token, blocks, tile):
    """Where a token's first block lies."""
    return base + ((token // tile) * blocks * tile + token % tile) * BLOCK_BYTES


def build_norm(level: str, tile: int):
    """RMSNorm of tokens begin..end, kept as floats and quantized.

    Arguments: x, stride in bytes, weight, true width, blocks, eps (float bits), out, out_q8, state.
    """

    @cfunc(KERNEL, error_model="numpy")
    def norm(args, begin, end, thread):
        x, stride, weight, width = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        blocks, eps, out, out_q8 = peek(args, 4), peek(args, 5), peek(args, 6), peek(args, 7)
        for token in range(begin, min(end, peek(peek(args, 8), 0))):
            row, target = x + token * stride, out + token * stride
            mean = sum_squares(level, row, blocks * BLOCK) / types.float32(width)
            factor = types.float32(1.0) / types.float32(math.sqrt(mean + f32_from_bits(eps)))
            scale_row(level, row, weight, factor, target, blocks * BLOCK)
            quantized = quantized_row(out_q8, token, blocks, tile)
            for block in range(blocks):
                quantize_block(
                    level, target + block * BLOCK * 4, quantized + block * tile * BLOCK_BYTES
                )

    return norm


def build_quantize(level: str, tile: int):
    """Quantize rows of floats. Begin and end count blocks of all tokens, token by token.

    Arguments: x, stride in bytes, blocks, out_q8, state.
    """

    @cfunc(KERNEL, error_model="numpy")
    def quantize(args, begin, end, thread):
        x, stride, blocks, out_q8 = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        for index in range(begin, min(end, peek(peek(args, 4), 0) * blocks)):
            token, block = index // blocks, index % blocks
            target = quantized_row(out_q8, token, blocks, tile) + block * tile * BLOCK_BYTES
            quantize_block(level, x + token * stride + block * BLOCK * 4, target)

    return quantize


def build_norm_add(level: str):
    """x += RMSNorm(delta) of tokens begin..end; delta is overwritten.

    Arguments: delta, stride in bytes, weight, true width, blocks, eps (float bits), x, state.
    """

    @cfunc(KERNEL, error_model="numpy")
    def norm_add(args, begin, end, thread):
        delta, stride, weight, width = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        blocks, eps, x = peek(args, 4), peek(args, 5), peek(args, 6)
        for token in range(begin, min(end, peek(peek(args, 7), 0))):
            row = delta + token * stride
            mean = sum_squares(level, row, blocks * BLOCK) / types.float32(width)
            factor = types.float32(1.0) / types.float32(math.sqrt(mean + f32_from_bits(eps)))
            scale_row(level, row, weight, factor, row, blocks * BLOCK)
            add_scaled_row(level, row, types.float32(1.0), x + token * stride, blocks * BLOCK)

    return norm_add


def build_gate(level: str, tile: int, activation: str):
    """act(gate) * up, kept as floats (over `gate`) and quantized. Begin and end as in quantize.

    Arguments: gate, up, stride in bytes, blocks, out_q8, state.
    """

    @cfunc(KERNEL, error_model="numpy")
    def gate(args, begin, end, thread):
        gates, up, stride, blocks = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        out_q8 = peek(args, 4)
        for index in range(begin, min(end, peek(peek(args, 5), 0) * blocks)):
            token, block = index // blocks, index % blocks
            at = token * stride + block * BLOCK * 4
            gate_block(level, activation, gates + at, up + at, gates + at)
            target = quantized_row(out_q8, token, blocks, tile) + block * tile * BLOCK_BYTES
            quantize_block(level, gates + at, target)

    return gate


assert all(BLOCK % level.lanes == 0 for level in LEVELS.values())
