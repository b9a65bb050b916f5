"""Reading and writing memory by address inside compiled kernels, and calling one by its address.

Kernels get their arguments as the address of an array of int64, so that a table of plain numbers
describes a whole forward pass. Nothing is checked here: `program.py` owns the buffers.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from enginebench_quant.kernels.simd import F32, I8, I16, I64, Simd

KERNEL = types.void(types.int64, types.int64, types.int64, types.int64)
"""Every kernel: (address of its arguments, begin, end, thread)."""


def _pointer(builder, base, index, kind, size):
    offset = builder.mul(index, ir.Constant(I64, size))
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


@intrinsic
def peek(typingctx, base, index):
    """The int64 at base[index]."""

    def codegen(context, builder, sig, args):
        return builder.load(_pointer(builder, *args, I64, 8), align=8, typ=I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def peek_f32(typingctx, base, index):
    """The float32 at base[index]."""

    def codegen(context, builder, sig, args):
        return builder.load(_pointer(builder, *args, F32, 4), align=4, typ=F32)

    return types.float32(types.int64, types.int64), codegen


@intrinsic
def poke_f32(typingctx, base, index, value):
    """base[index] = value, a float32."""

    def codegen(context, builder, sig, args):
        base, index, value = args
        builder.store(value, _pointer(builder, base, index, F32, 4), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), codegen


@intrinsic
def poke_byte(typingctx, base, index, value):
    """base[index] = the lowest 8 bits of value."""

    def codegen(context, builder, sig, args):
        base, index, value = args
        builder.store(builder.trunc(value, I8), _pointer(builder, base, index, I8, 1), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def poke_half(typingctx, level, base, index, value):
    """base[index] = value, rounded to a half."""

    def codegen(context, builder, sig, args):
        _, base, index, value = args
        half = Simd(builder, level.literal_value).f32_to_half_bits(value)
        builder.store(half, _pointer(builder, base, index, I16, 2), align=2)
        return context.get_dummy_value()

    return types.void(level, types.int64, types.int64, types.float32), codegen


@intrinsic
def f32_from_bits(typingctx, bits):
    """A float32 that travelled as an int64."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), F32)

    return types.float32(types.int64), codegen


@intrinsic
def call_kernel(typingctx, address, arguments, begin, end, thread):
    """Call the KERNEL at `address`."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 4)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


__all__ = [
    "KERNEL",
    "call_kernel",
    "f32_from_bits",
    "peek",
    "peek_f32",
    "poke_byte",
    "poke_f32",
    "poke_half",
]
