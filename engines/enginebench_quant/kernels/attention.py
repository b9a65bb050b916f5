"""Grouped-query attention of a chunk of prompt, and the softmax that decoding shares with it.

The cache's layout is that of `rope.py`: both products are `matmul_tile` on F16 "weights".
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.matmul import matmul_tile
from enginebench_quant.kernels.memory import KERNEL, f32_from_bits, peek, peek_f32, poke_f32
from enginebench_quant.kernels.simd import F32, I64, Simd

__all__ = ["ATTEND_ARGUMENTS", "MINUS_INFINITY", "build_attend", "exponentiate_row"]

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


ATTEND_ARGUMENTS = (
    "q",
    "q_stride",
    "out",
    "head_dim",
    "kv_heads",
    "group",
    "k_cache",
    "v_cache",
    "capacity",
    "scale",
    "scratch",
    "scratch_bytes",
    "state",
)


def build_attend(level: str, rows: int):
    """Causal attention of a chunk. Begin and end count (tile of `rows` tokens, query head) pairs.

    `scratch` holds sums, outputs and scores: `scratch_bytes` for each thread.
    """
    lanes = LEVELS[level].lanes

    @cfunc(KERNEL, cache=True, error_model="numpy")
    def attend(args, begin, end, thread):
        q, q_stride, out, head_dim = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        kv_heads, group = peek(args, 4), peek(args, 5)
        k_cache, v_cache, capacity = peek(args, 6), peek(args, 7), peek(args, 8)
        scale = f32_from_bits(peek(args, 9))
        stats = peek(args, 10) + thread * peek(args, 11)
        tokens, first_position = peek(peek(args, 12), 0), peek(peek(args, 12), 1)
        dim_groups = (head_dim + lanes - 1) // lanes
        output_bytes = dim_groups * lanes * 4
        outputs = stats + rows * 8
        scores = outputs + rows * output_bytes
        heads = kv_heads * group
        tiles = (tokens + rows - 1) // rows
        for index in range(begin, min(end, tiles * heads)):
            token, head = index // heads * rows, index % heads
            keys = k_cache + (head // group) * capacity * head_dim * 2
            values = v_cache + (head // group) * capacity * dim_groups * lanes * 2
            seen = first_position + token + 1  # by the first row; each row sees one more
            padded = (seen + rows - 1 + lanes - 1) // lanes * lanes
            at = token * q_stride + head * head_dim * 4
            for key_group in range(padded // lanes):
                matmul_tile(
                    "F16",
                    level,
                    rows,
                    keys + key_group * head_dim * lanes * 2,
                    head_dim // 4,
                    q + at,
                    q_stride,
                    scores + key_group * lanes * 4,
                    padded * 4,
                    0,
                )
            for row in range(rows):
                line = scores + row * padded * 4
                for i in range(seen + row, padded):
                    poke_f32(line, i, types.float32(MINUS_INFINITY))
                exponentiate_row(level, line, padded, scale, stats + row * 8)
                for i in range(seen + row, padded):
                    poke_f32(line, i, types.float32(0.0))
            for dim_group in range(dim_groups):
                matmul_tile(
                    "F16",
                    level,
                    rows,
                    values + dim_group * capacity * lanes * 2,
                    padded // 4,
                    scores,
                    padded * 4,
                    outputs + dim_group * lanes * 4,
                    output_bytes,
                    0,
                )
            for row in range(rows):
                target, source = out + at + row * q_stride, outputs + row * output_bytes
                factor = types.float32(1.0) / peek_f32(stats, 2 * row + 1)
                for i in range(head_dim):
                    poke_f32(target, i, peek_f32(source, i) * factor)

    return attend
