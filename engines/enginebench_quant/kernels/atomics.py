"""Atomic words, a pause and a yield for threads that wait for each other inside compiled code."""

from __future__ import annotations

import platform
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from enginebench_quant.kernels.simd import I64

YIELD_SYMBOL = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def _word(builder, address):
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at `address`; later reads are not moved before it."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8, typ=I64)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Write an int64; earlier writes are seen by whoever loads it."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], _word(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to the int64 at `address`; returns what it was."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_swap_if(typingctx, address, expected, value):
    """Write `value` if the word at `address` is `expected`; returns whether it was."""

    def codegen(context, builder, sig, args):
        pair = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this is a spinning loop."""

    def codegen(context, builder, sig, args):
        if IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause")
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_core(typingctx):
    """Let another thread have this core."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, YIELD_SYMBOL), [])
        return context.get_dummy_value()

    return types.void(), codegen


__all__ = [
    "atomic_add",
    "atomic_load",
    "atomic_store",
    "atomic_swap_if",
    "pause",
    "yield_core",
]
