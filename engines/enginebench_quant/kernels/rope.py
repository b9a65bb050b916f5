"""Rotary positions, and keys and values into the cache.

A cache in f16 is interleaved like an F16 weight, so that both products of attention are
`matmul_tile`: keys as (kv head, position / lanes, head_dim, lanes), values as (kv head,
head_dim / lanes, position, lanes). `cache_layout` has those of other types. Rotation is by halves
("neox"): weights of files that pair adjacent elements are permuted when they are loaded.
"""

from __future__ import annotations

import math

from numba import cfunc, njit, types

from enginebench_quant.kernels.cache_layout import block_bytes
from enginebench_quant.kernels.cache_products import store_key, store_value
from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.memory import (
    KERNEL,
    f32_from_bits,
    peek,
    peek_f32,
    poke_f32,
)

__all__ = ["build_rope"]


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


def build_rope(level: str, bits: int = 16):
    """Bias, q/k norm and rotation in place, then keys and values into the cache.

    Begin and end count (token, kv head) pairs; a pair's task covers the query heads of its group.
    `bits`: of an element of the cache.
    """
    lanes = LEVELS[level].lanes
    unit_bytes = 2 if bits == 16 else block_bytes(bits)  # of an element, or of a block

    @cfunc(KERNEL, error_model="numpy")
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
            row_bytes = capacity * (head_dim if bits == 16 else head_dim // 32) * unit_bytes
            keys = k_cache + kv_head * row_bytes
            store_key(bits, level, lanes, keys, position, head_dim, key)
            values = v_cache + kv_head * capacity * v_dim * 2
            if bits != 16:
                values = v_cache + kv_head * row_bytes
            store_value(bits, level, lanes, values, position, capacity, head_dim, value)

    return rope
