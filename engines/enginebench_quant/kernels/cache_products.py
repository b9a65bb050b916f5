"""Both products of attention with the cache, and the writing of it, whatever its type.

`bits` (16, 8 or 4, see `cache_layout`) is known when a kernel is compiled: it has one of the
branches only.
"""

from __future__ import annotations

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.cache_layout import BLOCK
from enginebench_quant.kernels.matmul import matmul_tile
from enginebench_quant.kernels.memory import peek_f32, poke_byte, poke_half
from enginebench_quant.kernels.simd import I64, Simd

__all__ = ["score_keys", "store_key", "store_value", "weigh_values"]


@intrinsic(prefer_literal=True)
def scale_scores(typingctx, level, scores, factors, count, out):
    """out = scores * factors (halves), over `count` floats, a multiple of the vector width."""

    def codegen(context, builder, sig, args):
        v = Simd(builder, level.literal_value)
        _, scores, factors, count, out = args
        with cgutils.for_range(builder, builder.sdiv(count, v.const(v.lanes)), intp=I64) as loop:
            at = builder.mul(loop.index, v.const(v.bytes))
            half = builder.mul(loop.index, v.const(2 * v.lanes))
            factor = v.load_f16(builder.add(factors, half))
            value = v.load(builder.add(scores, at), v.f32)
            v.store(builder.fmul(value, factor), builder.add(out, at))
        return context.get_dummy_value()

    return types.void(level, *[types.int64] * 4), codegen


@njit(inline="always")
def score_keys(bits, level, lanes, rows, keys, first, head_dim, q, q_stride, scores, padded):
    """scores (rows, padded) = q times the keys of `padded` positions from `first` on.

    `keys`: those of the kv head; `first` and `padded` are multiples of `lanes`.
    """
    group_bytes = head_dim * lanes * 2
    if bits != 16:
        group_bytes = head_dim // 32 * lanes * (2 + 4 * bits)
    for group in range(padded // lanes):
        source = keys + (first // lanes + group) * group_bytes
        target = scores + group * lanes * 4
        if bits == 16:
            matmul_tile(
                "F16", level, rows, source, head_dim // 4, q, q_stride, target, padded * 4, 0
            )
        elif bits == 8:
            matmul_tile(
                "KEYS_Q8", level, rows, source, head_dim // 32, q, q_stride, target, padded * 4, 0
            )
        else:
            matmul_tile(
                "KEYS_Q4", level, rows, source, head_dim // 32, q, q_stride, target, padded * 4, 0
            )


@njit(inline="always")
def weigh_values(
    bits, level, lanes, rows, values, first, capacity, head_dim, scores, padded, out, out_stride
):
    """out (rows, head_dim) = scores times the values of `padded` positions from `first` on.

    `values`: those of the kv head. Behind the scores there is room for as many floats again.
    """
    if bits == 16:
        for group in range((head_dim + lanes - 1) // lanes):
            matmul_tile(
                "F16",
                level,
                rows,
                values + (group * capacity + first) * lanes * 2,
                padded // 4,
                scores,
                padded * 4,
                out + group * lanes * 4,
                out_stride,
                0,
            )
    else:
        factors = values + head_dim * capacity * bits // 8
        scaled = scores + rows * padded * 4
        for block in range(head_dim // 32):
            own = factors + (block * capacity + first) * 2
            for row in range(rows):
                at = row * padded * 4
                scale_scores(level, scores + at, own, padded, scaled + at)
            for within in range(32 // lanes):
                group = block * (32 // lanes) + within
                target = out + group * lanes * 4
                if bits == 8:
                    source = values + (group * capacity + first) * lanes
                    matmul_tile(
                        "VALUES_Q8", level, rows, source, padded // 4, scaled, padded * 4,
                        target, out_stride, 0,
                    )  # fmt: skip
                else:
                    source = values + (group // 2 * capacity + first) * lanes
                    if group % 2 == 0:
                        matmul_tile(
                            "VALUES_Q4_LOW", level, rows, source, padded // 4, scaled, padded * 4,
                            target, out_stride, 0,
                        )  # fmt: skip
                    else:
                        matmul_tile(
                            "VALUES_Q4_HIGH", level, rows, source, padded // 4, scaled, padded * 4,
                            target, out_stride, 0,
                        )  # fmt: skip


@njit(inline="always")
def _factor(bits, x):
    """Of 32 floats at `x`: the largest magnitude over 127, or the largest element over -8."""
    largest = types.float32(0.0)
    for i in range(BLOCK):
        value = peek_f32(x, i)
        if abs(value) > abs(largest):
            largest = value
    return abs(largest) / types.float32(127.0) if bits == 8 else largest / types.float32(-8.0)


@njit(inline="always")
def _code(bits, value, inverse):
    """Rounded as the reference quantizers of Q8_0 and Q4_0 round."""
    scaled = value * inverse
    if bits == 8:
        return (
            int(scaled + types.float32(0.5)) if scaled >= 0 else -int(types.float32(0.5) - scaled)
        )
    return max(0, min(15, int(scaled + types.float32(8.5))))


@njit(inline="always")
def _inverse(factor):
    return types.float32(0.0) if factor == 0 else types.float32(1.0) / factor


@njit(inline="always")
def store_key(bits, level, lanes, keys, position, head_dim, key):
    """The floats at `key` become the keys of `position`."""
    lane = position % lanes
    if bits == 16:
        group = keys + position // lanes * head_dim * lanes * 2
        for i in range(head_dim):
            poke_half(level, group, i * lanes + lane, peek_f32(key, i))
    else:
        step_bytes = lanes * (2 + 4 * bits)
        group = keys + position // lanes * (head_dim // BLOCK) * step_bytes
        for block in range(head_dim // BLOCK):
            x, step = key + block * BLOCK * 4, group + block * step_bytes
            factor = _factor(bits, x)
            inverse = _inverse(factor)
            poke_half(level, step, lane, factor)
            codes = step + lanes * 2 + lane
            if bits == 8:
                for i in range(BLOCK):
                    poke_byte(codes, i * lanes, _code(bits, peek_f32(x, i), inverse))
            else:
                for i in range(BLOCK // 2):
                    low = _code(bits, peek_f32(x, i), inverse)
                    high = _code(bits, peek_f32(x, i + BLOCK // 2), inverse)
                    poke_byte(codes, i * lanes, low + 16 * high)


@njit(inline="always")
def store_value(bits, level, lanes, values, position, capacity, head_dim, value):
    """The floats at `value` become the values of `position`."""
    if bits == 16:
        for i in range(head_dim):
            at = (i // lanes) * capacity * lanes + position * lanes + i % lanes
            poke_half(level, values, at, peek_f32(value, i))
    else:
        factors = values + head_dim * capacity * bits // 8
        for block in range(head_dim // BLOCK):
            x = value + block * BLOCK * 4
            factor = _factor(bits, x)
            inverse = _inverse(factor)
            poke_half(level, factors, block * capacity + position, factor)
            first = block * (BLOCK // lanes)
            if bits == 8:
                for i in range(BLOCK):
                    at = ((first + i // lanes) * capacity + position) * lanes + i % lanes
                    poke_byte(values, at, _code(bits, peek_f32(x, i), inverse))
            else:
                for pair in range(BLOCK // lanes // 2):
                    for lane in range(lanes):
                        i = 2 * pair * lanes + lane
                        low = _code(bits, peek_f32(x, i), inverse)
                        high = _code(bits, peek_f32(x, i + lanes), inverse)
                        at = ((first // 2 + pair) * capacity + position) * lanes + lane
                        poke_byte(values, at, low + 16 * high)
