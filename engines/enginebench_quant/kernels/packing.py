"""Tensors as in the file -> rows interleaved in groups; the fast twin of `layout.pack`.

A step's fields are written one after the other, as `block_format.py` describes it; in each the rows
of the group lie side by side. `out` holds zeros, which is what rows and columns beyond the tensor's
own must be. Codes move four at a time, as the bytes of a word.
"""

from __future__ import annotations

from numba import cfunc, njit

from enginebench_quant.kernels.block_format import BlockFormat
from enginebench_quant.kernels.float_format import FloatFormat
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.kernels.memory import KERNEL, peek
from enginebench_quant.kernels.scales import block_minimum, block_scale
from enginebench_quant.kernels.words import copy_word, peek_word, poke_byte, poke_word

__all__ = ["build_pack"]

"""`order` is the address of the source row of each packed row, 0 if they are the same."""


def build_pack(kind: str, lanes: int):
    """Pack groups begin..end of a tensor of type `kind`."""
    form = FORMATS[kind]
    if isinstance(form, FloatFormat):
        return _build_pack_floats(form.element_bytes, form.block, lanes)
    assert isinstance(form, BlockFormat)
    return _build_pack_blocks(form, lanes)


@njit(inline="always")
def _four_codes(plane, bits, run, column):
    """A plane's bits of the codes of `column` and the next three, as the bytes of a word."""
    mask = ((1 << bits) - 1) * 0x01010101
    if run < 4:  # bit by bit: spread four of them
        four = peek_word(4, plane + column // 32 * 4) >> column % 32 & 15
        return (four * 0x00204081) & mask
    chunk = run * (8 // bits)
    within = column % chunk
    word = peek_word(4, plane + column // chunk * run + within % run)
    return word >> within // run * bits & mask


@njit(inline="always")
def _move_plane(plane, bits, run, target, word_bytes, part_bytes, parts):
    """All codes of a block; words `word_bytes`, parts `part_bytes` apart."""
    for part in range(parts):
        for index in range(bits):
            word = 0
            for field in range(8 // bits):
                column = 32 * part + 4 * (index + bits * field)
                word |= _four_codes(plane, bits, run, column) << bits * field
            poke_word(target + part * part_bytes + index * word_bytes, word)


@njit(inline="always")
def _move_scales(block, at, scheme, has_minima, groups, target, lanes, parts):
    """Each part's scales, then its minima, as bytes `lanes` apart."""
    for part in range(parts):
        for index in range(groups):
            poke_byte(target, block_scale(scheme, block + at, part * groups + index))
            target += lanes
        if has_minima:
            for index in range(groups):
                poke_byte(target, block_minimum(scheme, block + at, part * groups + index))
                target += lanes


def _build_pack_blocks(form: BlockFormat, lanes: int):
    file_block = form.file_block
    block_bytes, factor_bytes = file_block.n_bytes, file_block.factor_bytes
    scheme, scales_at = file_block.scheme, file_block.scales_at
    has_min, has_own_minima = form.has_min, form.has_own_minima
    groups, parts = form.groups, form.parts
    factor_at, second_factor_at = file_block.factors[0], file_block.factors[-1]
    step_bytes, part_bytes = lanes * form.block_bytes, lanes * form.part_code_bytes
    scales_to, codes_to = lanes * form.scales_at, lanes * form.codes_at
    has_high = len(file_block.planes) == 2
    high, low = file_block.planes[0], file_block.planes[-1]
    high_at, high_bits, high_run = high.at, high.bits, high.run
    low_at, low_bits, low_run = low.at, low.bits, low.run
    low_to = codes_to + 4 * lanes * high_bits * has_high

    @cfunc(KERNEL, error_model="numpy")
    def pack_blocks(args, begin, end, thread):
        source, row_bytes, rows = peek(args, 0), peek(args, 1), peek(args, 2)
        order, out, steps = peek(args, 4), peek(args, 5), peek(args, 6)
        for group in range(begin, end):
            for step in range(steps):
                target = out + (group * steps + step) * step_bytes
                for lane in range(min(lanes, rows - group * lanes)):
                    row = group * lanes + lane
                    if order != 0:
                        row = peek(order, row)
                    block = source + row * row_bytes + step * block_bytes
                    factors = target + factor_bytes * lane
                    copy_word(factor_bytes, block + factor_at, factors)
                    if has_min:
                        second = factors + factor_bytes * lanes
                        copy_word(factor_bytes, block + second_factor_at, second)
                    if groups:
                        scales = target + scales_to + lane
                        _move_scales(
                            block, scales_at, scheme, has_own_minima, groups, scales, lanes, parts
                        )
                    if has_high:
                        codes = target + codes_to + 4 * lane
                        plane = block + high_at
                        _move_plane(plane, high_bits, high_run, codes, 4 * lanes, part_bytes, parts)
                    codes = target + low_to + 4 * lane
                    plane = block + low_at
                    _move_plane(plane, low_bits, low_run, codes, 4 * lanes, part_bytes, parts)

    return pack_blocks


def _build_pack_floats(size: int, columns_in_step: int, lanes: int):
    @cfunc(KERNEL, error_model="numpy")
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
