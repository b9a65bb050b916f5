"""Grouped-query attention of a chunk of prompt, and the softmax that decoding shares with it.

The cache's layout is that of `rope.py`, or of `cache_layout` where it is quantized.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.arguments import CAP_COLUMNS
from enginebench_quant.kernels.cache_products import score_keys, weigh_values
from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.memory import KERNEL, f32_from_bits, peek, peek_f32, poke_f32
from enginebench_quant.kernels.simd import F32, I64, Simd

__all__ = [
    "MINUS_INFINITY",
    "build_attend",
    "build_cap",
    "cap_row",
    "exponentiate_row",
]

MINUS_INFINITY = -math.inf


@intrinsic(prefer_literal=True)
def exponentiate_row(typingctx, level, x, count, scale, stats):
    """x = exp(scale * (x - max x)) in place, over `count` floats, a multiple of the vector width.

    `stats` gets two floats: scale * max x, and the sum of the results.
    """

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, x, count, scale, stats = args
        scale = v.broadcast(scale)
        vectors = builder.sdiv(count, v.const(v.lanes))
        largest = cgutils.alloca_once_value(builder, v.splat(F32, MINUS_INFINITY))
        total = cgutils.alloca_once_value(builder, ir.Constant(v.f32, [0.0] * v.lanes))

        def address(loop):
            return builder.add(x, builder.mul(loop.index, v.const(v.bytes)))

        with cgutils.for_range(builder, vectors, intp=I64) as loop:
            builder.store(v.max(v.load(address(loop), v.f32), builder.load(largest)), largest)
        peak = v.horizontal(builder.load(largest), v.max)
        with cgutils.for_range(builder, vectors, intp=I64) as loop:
            shifted = builder.fmul(builder.fsub(v.load(address(loop), v.f32), peak), scale)
            value = v.exp(shifted)
            builder.store(builder.fadd(builder.load(total), value), total)
            v.store(value, address(loop))
        total = v.horizontal(builder.load(total), builder.fadd)
        v.store(v.first(builder.fmul(peak, scale)), stats, align=4)
        v.store(v.first(total), v.at(stats, 4), align=4)
        return context.get_dummy_value()

    return types.void(level, types.int64, types.int64, types.float32, types.int64), codegen


@intrinsic(prefer_literal=True)
def cap_row(typingctx, level, x, count, scale, cap):
    """x = cap * tanh(scale * x / cap) in place, over `count` floats, whole vectors."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, x, count, scale, cap = args
        twice = v.broadcast(builder.fdiv(builder.fmul(scale, ir.Constant(F32, 2.0)), cap))
        cap, one, two = v.broadcast(cap), v.splat(F32, 1.0), v.splat(F32, 2.0)
        with cgutils.for_range(builder, builder.sdiv(count, v.const(v.lanes)), intp=I64) as loop:
            at = builder.add(x, builder.mul(loop.index, v.const(v.bytes)))
            growth = v.exp(builder.fmul(v.load(at, v.f32), twice))  # tanh(u) = 1 - 2 / (e^2u + 1)
            rest = builder.fdiv(two, builder.fadd(growth, one))
            v.store(builder.fmul(cap, builder.fsub(one, rest)), at)
        return context.get_dummy_value()

    return types.void(level, types.int64, types.int64, types.float32, types.float32), codegen


def build_attend(level: str, rows: int, bits: int):
    """Causal attention of a chunk. Begin and end count (tile of `rows` tokens, query head) pairs.

    `scratch` holds sums, outputs and scores, these twice: `scratch_bytes` for each thread.
    """
    lanes = LEVELS[level].lanes

    @cfunc(KERNEL, error_model="numpy")
    def attend(args, begin, end, thread):
        q, q_stride, out, head_dim = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        kv_heads, group = peek(args, 4), peek(args, 5)
        k_cache, v_cache, capacity = peek(args, 6), peek(args, 7), peek(args, 8)
        scale = f32_from_bits(peek(args, 9))
        stats = peek(args, 10) + thread * peek(args, 11)
        tokens, first_position = peek(peek(args, 12), 0), peek(peek(args, 12), 1)
        window, softcap = peek(args, 13), f32_from_bits(peek(args, 14))
        dim_groups = (head_dim + lanes - 1) // lanes
        output_bytes = dim_groups * lanes * 4
        key_bytes, value_bytes = head_dim * 2, dim_groups * lanes * 2
        if bits != 16:
            key_bytes = value_bytes = head_dim // 32 * (2 + 4 * bits)
        outputs = stats + rows * 8
        scores = outputs + rows * output_bytes
        heads = kv_heads * group
        tiles = (tokens + rows - 1) // rows
        for index in range(begin, min(end, tiles * heads)):
            token, head = index // heads * rows, index % heads
            keys = k_cache + (head // group) * key_bytes * capacity
            values = v_cache + (head // group) * value_bytes * capacity
            seen = first_position + token + 1  # by the first row; each row sees one more
            skipped = max(0, seen - window) if window else 0  # before the first row's window
            base = skipped // lanes * lanes
            seen -= base
            padded = (seen + rows - 1 + lanes - 1) // lanes * lanes
            at = token * q_stride + head * head_dim * 4
            score_keys(
                bits, level, lanes, rows, keys, base, head_dim, q + at, q_stride, scores, padded
            )
            for row in range(rows):
                line = scores + row * padded * 4
                hidden = max(0, seen + row - window) if window else 0
                weight = scale
                if softcap != 0:
                    cap_row(level, line, padded, scale, softcap)
                    weight = types.float32(1.0)
                for i in range(hidden):
                    poke_f32(line, i, types.float32(MINUS_INFINITY))
                for i in range(seen + row, padded):
                    poke_f32(line, i, types.float32(MINUS_INFINITY))
                exponentiate_row(level, line, padded, weight, stats + row * 8)
                for i in range(hidden):
                    poke_f32(line, i, types.float32(0.0))
                for i in range(seen + row, padded):
                    poke_f32(line, i, types.float32(0.0))
            weigh_values(
                bits,
                level,
                lanes,
                rows,
                values,
                base,
                capacity,
                head_dim,
                scores,
                padded,
                outputs,
                output_bytes,
            )
            for row in range(rows):
                target, source = out + at + row * q_stride, outputs + row * output_bytes
                factor = types.float32(1.0) / peek_f32(stats, 2 * row + 1)
                for i in range(head_dim):
                    poke_f32(target, i, peek_f32(source, i) * factor)

    return attend


def build_cap(level: str):
    """Soft cap of rows of x; begin and end count pieces of CAP_COLUMNS, row by row.

    Arguments: x, stride in bytes, columns, cap (float bits), state.
    """

    @cfunc(KERNEL, error_model="numpy")
    def cap(args, begin, end, thread):
        x, stride, columns = peek(args, 0), peek(args, 1), peek(args, 2)
        most, pieces = f32_from_bits(peek(args, 3)), columns // CAP_COLUMNS
        for index in range(begin, min(end, peek(peek(args, 4), 0) * pieces)):
            at = x + index // pieces * stride + index % pieces * CAP_COLUMNS * 4
            cap_row(level, at, CAP_COLUMNS, types.float32(1.0), most)

    return cap
