"""Reading and writing words of a few bytes at any alignment, inside compiled packing kernels."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from enginebench_quant.kernels.simd import I64

__all__ = ["copy_word", "peek_word", "poke_byte", "poke_word"]


def _address(builder, address, bits):
    kind = ir.IntType(bits)
    return builder.inttoptr(address, kind.as_pointer()), kind


@intrinsic(prefer_literal=True)
def copy_word(typingctx, size, source, target):
    """Copy 1, 2 or 4 bytes."""

    def codegen(context, builder, sig, args):
        pointer, kind = _address(builder, args[1], 8 * size.literal_value)
        value = builder.load(pointer, align=1, typ=kind)
        builder.store(value, _address(builder, args[2], 8 * size.literal_value)[0], align=1)
        return context.get_dummy_value()

    return types.void(size, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def peek_word(typingctx, size, address):
    """1, 2 or 4 bytes as an unsigned number."""

    def codegen(context, builder, sig, args):
        pointer, kind = _address(builder, args[1], 8 * size.literal_value)
        return builder.zext(builder.load(pointer, align=1, typ=kind), I64)

    return types.int64(size, types.int64), codegen


@intrinsic
def poke_byte(typingctx, address, value):
    """Store the low byte of `value`."""

    def codegen(context, builder, sig, args):
        pointer, kind = _address(builder, args[0], 8)
        builder.store(builder.trunc(args[1], kind), pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def poke_word(typingctx, address, value):
    """Store the low four bytes of `value`."""

    def codegen(context, builder, sig, args):
        pointer, kind = _address(builder, args[0], 32)
        builder.store(builder.trunc(args[1], kind), pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
