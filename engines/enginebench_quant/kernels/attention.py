"""Rotary positions, the KV cache's layout, and grouped-query attention over it.

The cache is f16 and interleaved like an F16 weight, so that both products of attention are
`matmul_tile`: keys as (kv head, position / lanes, head_dim, lanes), values as (kv head,
head_dim / lanes, position, lanes). Rotation is by halves ("neox"): weights of files that pair
adjacent elements are permuted when they are loaded.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.matmul import matmul_tile
from enginebench_quant.kernels.memory import (
    KERNEL,
    f32_from_bits,
    peek,
    peek_f32,
    poke_f32,
    poke_half,
)
from enginebench_quant.kernels.simd import F32, I64, Simd

__all__ = ["ATTEND_ARGUMENTS", "ROPE_ARGUMENTS", "build_attend", "build_rope"]

MINUS_INFINITY = -math.inf


@intrinsic(prefer_literal=True)
def softmax_row(typingctx, level, x, count, scale):
    """x = softmax(x * scale) in place, over `count` floats, a multiple of the vector width."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, x, count, scale = args
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
        inverse = builder.fdiv(v.splat(F32, 1.0), total)
        with cgutils.for_range(builder, vectors, intp=I64) as loop:
            v.store(builder.fmul(v.load(address(loop), v.f32), inverse), address(loop))
        return context.get_dummy_value()

    return types.void(level, types.int64, types.int64, types.float32), codegen


@njit(inline="always")
def _add_bias(x, bias, count):
    for i in range(count):
        poke_f32(x, i, peek_f32(x, i) + peek_f32(bias, i))


@njit(inline="always")
def _norm_head(x, weight, count, eps):
    total = types.float32(0.0)
    for i in range(count):
        total += peek_f32(x, i) * peek_f32(x, i)
    mean = total / types.float32(count)
    factor = types.float32(1.0) / types.float32(math.sqrt(mean + eps))
    for i in range(count):
        poke_f32(x, i, peek_f32(x, i) * factor * peek_f32(weight, i))


@njit(inline="always")
def _rotate_halves(x, cos_sin, head_dim):
    half = head_dim // 2
    for i in range(half):
        cos, sin = peek_f32(cos_sin, i), peek_f32(cos_sin, half + i)
        first, second = peek_f32(x, i), peek_f32(x, half + i)
        poke_f32(x, i, first * cos - second * sin)
        poke_f32(x, half + i, second * cos + first * sin)


ROPE_ARGUMENTS = (
    "q",
    "k",
    "v",
    "q_stride",
    "kv_stride",
    "q_bias",
    "k_bias",
    "v_bias",
    "q_norm",
    "k_norm",
    "eps",
    "head_dim",
    "kv_heads",
    "group",
    "cos_sin",
    "k_cache",
    "v_cache",
    "capacity",
    "state",
)
"""Addresses of biases and norms are 0 where the model has none; `state`: token count, position."""


def build_rope(level: str):
    """Bias, q/k norm and rotation in place, then keys and values into the cache.

    Begin and end count (token, kv head) pairs; a pair's task covers the query heads of its group.
    """
    lanes = LEVELS[level].lanes

    @cfunc(KERNEL, cache=True, error_model="numpy")
    def rope(args, begin, end, thread):
        q, k, v = peek(args, 0), peek(args, 1), peek(args, 2)
        q_stride, kv_stride = peek(args, 3), peek(args, 4)
        q_bias, k_bias, v_bias = peek(args, 5), peek(args, 6), peek(args, 7)
        q_norm, k_norm, eps = peek(args, 8), peek(args, 9), f32_from_bits(peek(args, 10))
        head_dim, kv_heads, group = peek(args, 11), peek(args, 12), peek(args, 13)
        cos_sin, k_cache, v_cache = peek(args, 14), peek(args, 15), peek(args, 16)
        capacity, state = peek(args, 17), peek(args, 18)
        tokens, first_position = peek(state, 0), peek(state, 1)
        v_dim = (head_dim + lanes - 1) // lanes * lanes
        for index in range(begin, min(end, tokens * kv_heads)):
            token, kv_head = index // kv_heads, index % kv_heads
            position = first_position + token
            angles = cos_sin + token * head_dim * 4
            for head in range(kv_head * group, (kv_head + 1) * group):
                query = q + token * q_stride + head * head_dim * 4
                if q_bias != 0:
                    _add_bias(query, q_bias + head * head_dim * 4, head_dim)
                if q_norm != 0:
                    _norm_head(query, q_norm, head_dim, eps)
                _rotate_halves(query, angles, head_dim)
            key = k + token * kv_stride + kv_head * head_dim * 4
            value = v + token * kv_stride + kv_head * head_dim * 4
            if k_bias != 0:
                _add_bias(key, k_bias + kv_head * head_dim * 4, head_dim)
            if v_bias != 0:
                _add_bias(value, v_bias + kv_head * head_dim * 4, head_dim)
            if k_norm != 0:
                _norm_head(key, k_norm, head_dim, eps)
            _rotate_halves(key, angles, head_dim)
            group_keys = k_cache + (kv_head * capacity + position // lanes * lanes) * head_dim * 2
            group_values = v_cache + (kv_head * v_dim * capacity + position * lanes) * 2
            for i in range(head_dim):
                at = (i // lanes) * capacity * lanes + i % lanes
                poke_half(level, group_keys, i * lanes + position % lanes, peek_f32(key, i))
                poke_half(level, group_values, at, peek_f32(value, i))

    return rope


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


def build_attend(level: str, rows: int, decode: bool):
    """Causal attention, `rows` queries at a time.

    decode: one token; begin and end count kv heads, the rows are the query heads of its group.
    Otherwise begin and end count (tile of `rows` tokens, query head) pairs.
    `scratch` holds scores and outputs, `scratch_bytes` for each thread.
    """
    lanes = LEVELS[level].lanes

    @cfunc(KERNEL, cache=True, error_model="numpy")
    def attend(args, begin, end, thread):
        q, q_stride, out, head_dim = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        kv_heads, group = peek(args, 4), peek(args, 5)
        k_cache, v_cache, capacity = peek(args, 6), peek(args, 7), peek(args, 8)
        scale = f32_from_bits(peek(args, 9))
        outputs = peek(args, 10) + thread * peek(args, 11)
        tokens, first_position = peek(peek(args, 12), 0), peek(peek(args, 12), 1)
        dim_groups = (head_dim + lanes - 1) // lanes
        output_bytes = dim_groups * lanes * 4
        scores = outputs + rows * output_bytes
        heads = kv_heads * group
        tiles = (tokens + rows - 1) // rows
        for index in range(begin, end if decode else min(end, tiles * heads)):
            if decode:
                token, head, row_bytes, step = 0, index * group, head_dim * 4, 0
            else:
                token, head = index // heads * rows, index % heads
                row_bytes, step = q_stride, 1
            keys = k_cache + (head // group) * capacity * head_dim * 2
            values = v_cache + (head // group) * capacity * dim_groups * lanes * 2
            seen = first_position + token + 1  # by the first row; each row sees `step` more
            padded = (seen + (rows - 1) * step + lanes - 1) // lanes * lanes
            at = token * q_stride + head * head_dim * 4
            for key_group in range(padded // lanes):
                matmul_tile(
                    "F16",
                    level,
                    rows,
                    keys + key_group * head_dim * lanes * 2,
                    head_dim // 4,
                    q + at,
                    row_bytes,
                    scores + key_group * lanes * 4,
                    padded * 4,
                    0,
                )
            for row in range(rows):
                line = scores + row * padded * 4
                for i in range(seen + row * step, padded):
                    poke_f32(line, i, types.float32(MINUS_INFINITY))
                softmax_row(level, line, padded, scale)
                for i in range(seen + row * step, padded):
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
                target = out + at + row * row_bytes
                for i in range(head_dim):
                    poke_f32(target, i, peek_f32(outputs + row * output_bytes, i))

    return attend
