"""Loops that do one thing as fast as this core can: read memory, multiply floats, multiply bytes.

Products stay in registers and no sum waits for another, so that nothing but the arithmetic units
is measured. What such a loop reaches, no engine can pass.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.features import CpuLevel
from enginebench_quant.kernels.simd import F32, I8, I32, I64, Simd

__all__ = ["CHAINS", "read_sum", "spin"]

CHAINS = 12
"""Sums that are kept apart: more than a unit's latency, fewer than there are registers."""


@njit(nogil=True, cache=False)
def read_sum(values, rounds):
    """The sum of int64 `values`, read `rounds` times over."""
    total = 0
    for _ in range(rounds):
        for index in range(values.size):
            total += values[index]
        total ^= rounds  # so that no round can be left out
    return total


@functools.cache
def spin(kind: str, level: CpuLevel):
    """(compiled loop over a number of turns, operations of one turn); kind: f32 or int8."""
    turn = _float_turn if kind == "f32" else _byte_turn
    width = 1 if kind == "f32" else 4

    @intrinsic
    def turns(typingctx, count):
        def codegen(context, builder, sig, args):
            simd = Simd(builder, level.name)
            zero = simd.splat(F32 if kind == "f32" else I32, 0)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(CHAINS)]
            with cgutils.for_range(builder, args[0]) as loop:
                turn(simd, sums, builder.sext(loop.index, I64))
            first = builder.load(sums[0])
            for sum in sums[1:]:
                add = builder.fadd if kind == "f32" else builder.add
                first = add(first, builder.load(sum))
            lane = builder.extract_element(first, ir.Constant(I32, 0))
            return builder.fptosi(lane, I64) if kind == "f32" else builder.sext(lane, I64)

        return types.int64(types.int64), codegen

    @njit(nogil=True)
    def run(count):
        return turns(count)

    run(1)
    return run, 2 * width * level.lanes * CHAINS


def _float_turn(simd: Simd, sums, index) -> None:
    for place, sum in enumerate(sums):
        x, y = simd.splat(F32, 0.5), simd.splat(F32, 1.0 + place)
        simd.b.store(simd.fma(simd.b.load(sum), x, y), sum)


def _byte_turn(simd: Simd, sums, index) -> None:
    """The left side changes from turn to turn, so that no product can be kept."""
    byte = simd.b.and_(simd.b.trunc(index, I32), ir.Constant(I32, 0x7F7F7F7F))
    left = simd.b.bitcast(simd.broadcast(byte), simd.u8)
    for place, sum in enumerate(sums):
        right = simd.splat(I8, 1 + place)
        total = simd.dot_bytes(simd.b.load(sum), [left], [right], 127, chains=1)
        simd.b.store(total, sum)
