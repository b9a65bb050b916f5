"""Mixtures of experts: who is chosen, the products with them, and what they yield joined.

A token and one of its experts are an assignment, numbered token * used + place. The router's kernel
sorts assignments by expert, so that a product reads each chosen expert once for all its tokens,
and of the others nothing. `lists` is its result, int64 words: the count of assignments, the count
of experts in use, for each of these (expert, first, end), then assignments in order, then the
expert of each.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from enginebench_quant.kernels.activations import BLOCK, BLOCK_BYTES
from enginebench_quant.kernels.arguments import HEAD_WORDS, IN_USE_WORDS
from enginebench_quant.kernels.attention import MINUS_INFINITY
from enginebench_quant.kernels.elementwise import add_scaled_row, dot_rows
from enginebench_quant.kernels.features import LEVELS
from enginebench_quant.kernels.matmul import matmul_tile
from enginebench_quant.kernels.memory import KERNEL, peek, peek_f32, poke_f32
from enginebench_quant.kernels.simd import I64

__all__ = ["build_expert_matmul", "build_join", "build_route"]


@intrinsic
def poke(typingctx, base, index, value):
    """base[index] = value, an int64."""

    def codegen(context, builder, sig, args):
        base, index, value = args
        at = builder.add(base, builder.mul(index, ir.Constant(I64, 8)))
        builder.store(value, builder.inttoptr(at, I64.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def build_route(level: str):
    """Choose and weigh the experts of all tokens, and sort the assignments: one unit of work."""

    @cfunc(KERNEL, error_model="numpy")
    def route(args, begin, end, thread):
        logits, stride, experts, used = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        normalized, lists, most, weights = (
            peek(args, 4), peek(args, 5), peek(args, 6), peek(args, 7),
        )  # fmt: skip
        tokens = peek(peek(args, 8), 0)
        in_use = lists + HEAD_WORDS * 8
        order = in_use + IN_USE_WORDS * experts * 8
        chosen = order + most * 8
        for token in range(tokens):
            row = logits + token * stride
            peak = types.float32(MINUS_INFINITY)
            for expert in range(experts):
                peak = max(peak, peek_f32(row, expert))
            total = types.float32(0.0)
            for expert in range(experts):
                total += types.float32(math.exp(peek_f32(row, expert) - peak))
            kept = types.float32(0.0)
            for place in range(token * used, (token + 1) * used):
                best = 0
                for expert in range(1, experts):
                    if peek_f32(row, expert) > peek_f32(row, best):
                        best = expert
                weight = types.float32(math.exp(peek_f32(row, best) - peak)) / total
                kept += weight
                poke_f32(weights, place, weight)
                poke(chosen, place, best)
                poke_f32(row, best, types.float32(MINUS_INFINITY))
            if normalized != 0:
                for place in range(token * used, (token + 1) * used):
                    poke_f32(weights, place, peek_f32(weights, place) / kept)
        count, first = 0, 0
        for expert in range(experts):
            last = first
            for assignment in range(tokens * used):
                if peek(chosen, assignment) == expert:
                    poke(order, last, assignment)
                    last += 1
            if last > first:
                poke(in_use, IN_USE_WORDS * count, expert)
                poke(in_use, IN_USE_WORDS * count + 1, first)
                poke(in_use, IN_USE_WORDS * count + 2, last)
                count += 1
                first = last
        poke(lists, 0, tokens * used)
        poke(lists, 1, count)

    return route


def build_expert_matmul(kind: str, level: str):
    """Begin and end count (expert in use, group of rows) pairs; `out` has a row an assignment."""
    group_out_bytes = 4 * LEVELS[level].lanes

    @cfunc(KERNEL, error_model="numpy")
    def expert_matmul(args, begin, end, thread):
        weights, expert_bytes, group_bytes = peek(args, 0), peek(args, 1), peek(args, 2)
        groups, steps, acts, row_bytes = peek(args, 3), peek(args, 4), peek(args, 5), peek(args, 6)
        per_row, out, out_stride = peek(args, 7), peek(args, 8), peek(args, 9)
        lists = peek(args, 10)
        in_use = lists + HEAD_WORDS * 8
        order = in_use + IN_USE_WORDS * peek(args, 11) * 8
        for index in range(begin, min(end, peek(lists, 1) * groups)):
            entry, group = in_use + index // groups * IN_USE_WORDS * 8, index % groups
            source = weights + peek(entry, 0) * expert_bytes + group * group_bytes
            for place in range(peek(entry, 1), peek(entry, 2)):
                assignment = peek(order, place)
                matmul_tile(
                    kind,
                    level,
                    1,
                    source,
                    steps,
                    acts + assignment // per_row * row_bytes,
                    row_bytes,
                    out + assignment * out_stride + group * group_out_bytes,
                    out_stride,
                    0,
                )

    return expert_matmul


def build_join(level: str):
    """x += what its experts yield for tokens begin..end, weighed; the shared one's by its gate."""

    @cfunc(KERNEL, error_model="numpy")
    def join(args, begin, end, thread):
        found, stride, weights, used = peek(args, 0), peek(args, 1), peek(args, 2), peek(args, 3)
        x, columns, shared = peek(args, 4), peek(args, 5), peek(args, 6)
        gate, normed = peek(args, 7), peek(args, 8)
        for token in range(begin, min(end, peek(peek(args, 9), 0))):
            target = x + token * stride
            for place in range(token * used, (token + 1) * used):
                weight = peek_f32(weights, place)
                add_scaled_row(level, found + place * stride, weight, target, columns)
            if shared != 0:
                score = dot_rows(level, normed + token * stride, gate, columns)
                share = types.float32(1.0) / types.float32(1.0 + math.exp(-score))
                add_scaled_row(level, shared + token * stride, share, target, columns)

    return join


assert BLOCK_BYTES % 4 == 0 and BLOCK % max(level.lanes for level in LEVELS.values()) == 0
