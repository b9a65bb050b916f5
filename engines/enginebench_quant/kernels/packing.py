"""Tensors as in the file -> rows interleaved in groups; the fast twin of `layout.pack`.

A step's fields are copied one after the other: scale, minimum, high bits, words of codes; in each
the rows of the group lie side by side. `out` holds zeros, which is what rows and columns beyond the
tensor's own must be.
"""

from __future__ import annotations

from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

from enginebench_quant.kernels.formats import FORMATS, BlockFormat
from enginebench_quant.kernels.memory import KERNEL, peek
from enginebench_quant.kernels.simd import I64

__all__ = ["PACK_ARGUMENTS", "build_pack"]

PACK_ARGUMENTS = ("source", "row_bytes", "rows", "columns", "order", "out", "steps")
"""`order` is the address of the source row of each packed row, 0 if they are the same."""


@intrinsic(prefer_literal=True)
def copy_word(typingctx, size, source, target):
    """Copy 2 or 4 bytes, aligned or not."""

    def codegen(context, builder, sig, args):
        pointer = ir.IntType(8 * size.literal_value).as_pointer()
        value = builder.load(builder.inttoptr(args[1], pointer), align=1, typ=pointer.pointee)
        builder.store(value, builder.inttoptr(args[2], pointer), align=1)
        return context.get_dummy_value()

    return types.void(size, types.int64, types.int64), codegen


@intrinsic
def peek_u32(typingctx, address):
    """The uint32 at an address of any alignment."""

    def codegen(context, builder, sig, args):
        kind = ir.IntType(32)
        value = builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=1, typ=kind)
        return builder.zext(value, I64)

    return types.int64(types.int64), codegen


@intrinsic
def poke_byte(typingctx, address, value):
    """Store the low byte of `value`."""

    def codegen(context, builder, sig, args):
        kind = ir.IntType(8)
        builder.store(builder.trunc(args[1], kind), builder.inttoptr(args[0], kind.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@njit(inline="always")
def _every_fourth_bit(word):
    """Bits 0, 4, 8 ... 28 of `word` as one byte."""
    word &= 0x11111111
    word = (word | word >> 3) & 0x03030303
    word = (word | word >> 6) & 0x000F000F
    return (word | word >> 12) & 0xFF


def build_pack(kind: str, lanes: int):
    """Pack groups begin..end of a tensor of type `kind`."""
    form = FORMATS[kind]
    if isinstance(form, BlockFormat):
        return _build_pack_blocks(form.block_bytes, 1 + form.has_min, form.bits == 5, lanes)
    return _build_pack_floats(form.block_bytes // form.block, form.block, lanes)


def _build_pack_blocks(block_bytes: int, halves: int, has_high_bits: bool, lanes: int):
    @cfunc(KERNEL, cache=True, error_model="numpy")
    def pack_blocks(args, begin, end, thread):
        source, row_bytes, rows = peek(args, 0), peek(args, 1), peek(args, 2)
        order, out, steps = peek(args, 4), peek(args, 5), peek(args, 6)
        for group in range(begin, end):
            for step in range(steps):
                base = out + (group * steps + step) * lanes * block_bytes
                for lane in range(min(lanes, rows - group * lanes)):
                    row = group * lanes + lane
                    if order != 0:
                        row = peek(order, row)
                    block = source + row * row_bytes + step * block_bytes
                    target = base
                    for _ in range(halves):
                        copy_word(2, block, target + 2 * lane)
                        block += 2
                        target += 2 * lanes
                    if has_high_bits:
                        bits = peek_u32(block)
                        for i in range(4):
                            poke_byte(target + 4 * lane + i, _every_fourth_bit(bits >> i))
                        block += 4
                        target += 4 * lanes
                    for _ in range((block_bytes - 2 * halves - 4 * has_high_bits) // 4):
                        copy_word(4, block, target + 4 * lane)
                        block += 4
                        target += 4 * lanes

    return pack_blocks


def _build_pack_floats(size: int, columns_in_step: int, lanes: int):
    @cfunc(KERNEL, cache=True, error_model="numpy")
    def pack_floats(args, begin, end, thread):
        source, row_bytes, rows, columns = (
            peek(args, 0),
            peek(args, 1),
            peek(args, 2),
            peek(args, 3),
        )
        order, out, steps = peek(args, 4), peek(args, 5), peek(args, 6)
        for group in range(begin, end):
            base = out + group * steps * columns_in_step * lanes * size
            for lane in range(min(lanes, rows - group * lanes)):
                row = group * lanes + lane
                if order != 0:
                    row = peek(order, row)
                for column in range(columns):
                    value = source + row * row_bytes + column * size
                    copy_word(size, value, base + (column * lanes + lane) * size)

    return pack_floats
