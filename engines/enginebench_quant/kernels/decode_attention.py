"""Grouped-query attention of one token: in parts along the context, which are then merged.

A part is the query heads of one kv head against a stretch of the cache. Its exponentials are
relative to its own largest score, so a part keeps that score and their sum, and merging weighs
parts by them (the split of "flash decoding").
"""

from __future__ import annotations

import math

from numba import cfunc, types

from enginebench_quant.kernels.attention import MINUS_INFINITY, cap_row, exponentiate_row
from enginebench_quant.kernels.cache_products import score_keys, weigh_values
from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.memory import KERNEL, f32_from_bits, peek, peek_f32, poke_f32

__all__ = ["build_attend_one", "build_merge"]

FEWEST_KEYS = 64  # below this a part costs more than it saves


def build_attend_one(level: str, rows: int, bits: int):
    """The parts of one token's attention; `rows` query heads share a kv head.

    Begin and end count (kv head, split) pairs. A part that has no keys gets a sum of 0.
    """
    lanes = LEVELS[level].lanes

    @cfunc(KERNEL, error_model="numpy")
    def attend_one(args, begin, end, thread):
        q, head_dim, k_cache, v_cache = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        capacity, scale = peek(args, 4), f32_from_bits(peek(args, 5))
        parts, splits = peek(args, 6), peek(args, 7)
        scores = peek(args, 8) + thread * peek(args, 9)
        seen = peek(peek(args, 10), 1) + 1
        window, softcap = peek(args, 11), f32_from_bits(peek(args, 12))
        skipped = max(0, seen - window) if window else 0
        base = skipped // lanes * lanes
        dim_groups = (head_dim + lanes - 1) // lanes
        output_bytes = dim_groups * lanes * 4
        key_bytes, value_bytes = head_dim * 2, dim_groups * lanes * 2
        if bits != 16:
            key_bytes = value_bytes = head_dim // 32 * (2 + 4 * bits)
        share = max(FEWEST_KEYS, (seen - base + splits - 1) // splits)
        share = (share + lanes - 1) // lanes * lanes
        for index in range(begin, end):
            kv_head, first = index // splits, base + (index % splits) * share
            stats = parts + index * rows * (8 + output_bytes)
            outputs = stats + rows * 8
            count = min(share, seen - first)
            if count <= 0:
                for row in range(rows):
                    poke_f32(stats, 2 * row + 1, types.float32(0.0))
                continue
            padded = (count + lanes - 1) // lanes * lanes
            score_keys(
                bits,
                level,
                lanes,
                rows,
                k_cache + kv_head * capacity * key_bytes,
                first,
                head_dim,
                q + kv_head * rows * head_dim * 4,
                head_dim * 4,
                scores,
                padded,
            )
            for row in range(rows):
                line = scores + row * padded * 4
                weight = scale
                if softcap != 0:
                    cap_row(level, line, padded, scale, softcap)
                    weight = types.float32(1.0)
                for i in range(skipped - first):
                    poke_f32(line, i, types.float32(MINUS_INFINITY))
                for i in range(count, padded):
                    poke_f32(line, i, types.float32(MINUS_INFINITY))
                exponentiate_row(level, line, padded, weight, stats + row * 8)
                for i in range(skipped - first):
                    poke_f32(line, i, types.float32(0.0))
                for i in range(count, padded):
                    poke_f32(line, i, types.float32(0.0))
            weigh_values(
                bits,
                level,
                lanes,
                rows,
                v_cache + kv_head * capacity * value_bytes,
                first,
                capacity,
                head_dim,
                scores,
                padded,
                outputs,
                output_bytes,
            )

    return attend_one


def build_merge(level: str):
    """Weigh the parts of query heads begin..end into one row of floats."""
    lanes = LEVELS[level].lanes

    @cfunc(KERNEL, error_model="numpy")
    def merge(args, begin, end, thread):
        out, head_dim, group = peek(args, 0), peek(args, 1), peek(args, 2)
        parts, splits = peek(args, 3), peek(args, 4)
        output_bytes = (head_dim + lanes - 1) // lanes * lanes * 4
        part_bytes = group * (8 + output_bytes)
        for head in range(begin, end):
            first, row = parts + (head // group) * splits * part_bytes, head % group
            target = out + head * head_dim * 4
            peak = types.float32(MINUS_INFINITY)
            for split in range(splits):
                stats = first + split * part_bytes
                if peek_f32(stats, 2 * row + 1) > 0:
                    peak = max(peak, peek_f32(stats, 2 * row))
            total = types.float32(0.0)
            for split in range(splits):
                stats = first + split * part_bytes
                if peek_f32(stats, 2 * row + 1) > 0:
                    weight = types.float32(math.exp(peek_f32(stats, 2 * row) - peak))
                    total += weight * peek_f32(stats, 2 * row + 1)
            for i in range(head_dim):
                poke_f32(target, i, types.float32(0.0))
            for split in range(splits):
                stats = first + split * part_bytes
                if peek_f32(stats, 2 * row + 1) > 0:
                    weight = types.float32(math.exp(peek_f32(stats, 2 * row) - peak)) / total
                    source = stats + group * 8 + row * output_bytes
                    for i in range(head_dim):
                        value = peek_f32(target, i) + weight * peek_f32(source, i)
                        poke_f32(target, i, value)

    return merge
