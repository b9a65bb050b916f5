"""Quantized tensors: int8 activations times codes of 2 to 8 bits, scaled once or twice.

A step is a block of the file, for all rows of a group: the block's factors, then the scales (and
minima) of its groups as bytes, part by part, then the codes, part by part. A part is 32 columns,
one block of activations. Its codes are bit planes: word k of a plane with p bits holds, for the
columns 4k .. 4k+3, 4(k+p) .. and so on, one field each, the first in the lowest bits; so eight
vectors of codes, four columns each, come out by shifts and masks alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llvmlite import ir

from enginebench_quant.kernels.activations import (
    BLOCK,
    NEG_FIRST_SUM_AT,
    NEG_SUM_AT,
    SCALE_AT,
    SCALED_SUM_AT,
)
from enginebench_quant.kernels.file_blocks import FILE_BLOCKS, FileBlock
from enginebench_quant.kernels.simd import I8, I32, Simd

__all__ = ["BlockFormat"]

WORDS = BLOCK // 4  # vectors of codes in a part
GROUPS_IN_PART = {"none": 0, "six_bit_pairs": 1, "split_six_bit": 1}  # two in all others


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """Value = scale * (code - offset), or scale * code + minimum; `levels` says what codes mean.

    `is_signed`: codes (or levels) are int8 of any value, which needs care where bytes are
    multiplied unsigned by signed.
    """

    name: str
    offset: int = 0
    levels: tuple[int, ...] = ()
    is_signed: bool = False
    has_signed_scales: bool = False
    activations: Literal["int8", "float"] = "int8"

    # ---- the layout of a step, in bytes of one row

    @property
    def file_block(self) -> FileBlock:
        return FILE_BLOCKS[self.name]

    @property
    def block(self) -> int:
        return self.file_block.columns

    @property
    def parts(self) -> int:
        return self.block // BLOCK

    @property
    def has_min(self) -> bool:
        return len(self.file_block.factors) == 2

    @property
    def groups(self) -> int:
        """Scales in a part beside the block's own factors: 0, 1 or 2."""
        return GROUPS_IN_PART.get(self.file_block.scheme, 2)

    @property
    def has_own_minima(self) -> bool:
        """Whether the groups' minima are bytes beside the scales; Q2_K has both in one byte."""
        return self.has_min and self.file_block.scheme != "nibble_pairs"

    @property
    def scales_at(self) -> int:
        return self.file_block.factor_bytes * len(self.file_block.factors)

    @property
    def part_scale_bytes(self) -> int:
        return self.groups * (1 + self.has_own_minima)

    @property
    def codes_at(self) -> int:
        return self.scales_at + self.parts * self.part_scale_bytes

    @property
    def part_code_bytes(self) -> int:
        return 4 * self.file_block.bits

    @property
    def block_bytes(self) -> int:
        return self.codes_at + self.parts * self.part_code_bytes

    # ---- loading

    def begin(self, v: Simd, step: ir.Value) -> list[ir.Value]:
        """The factors of the whole block; that of a superblock's minima is negative."""
        if self.file_block.factor_bytes == 1:
            return [v.load_exponents(step)]
        factors = [v.load_f16(v.at(step, 2 * v.lanes * i)) for i in range(1 + self.has_min)]
        if self.groups and self.has_min:
            factors[1] = v.b.fneg(factors[1])
        return factors

    def load(
        self, v: Simd, step: ir.Value, part: ir.Value, factors: list[ir.Value]
    ) -> list[ir.Value]:
        """Scales and minima of the part's groups as floats, then eight vectors of codes."""
        offset = v.b.mul(part, v.const(v.lanes * self.part_code_bytes))
        codes = self._codes(v, v.b.add(v.at(step, v.lanes * self.codes_at), offset))
        return self._scales(v, step, part, factors) + codes

    def _scales(
        self, v: Simd, step: ir.Value, part: ir.Value, factors: list[ir.Value]
    ) -> list[ir.Value]:
        if not self.groups:
            return factors
        offset = v.b.mul(part, v.const(v.lanes * self.part_scale_bytes))
        address = v.b.add(v.at(step, v.lanes * self.scales_at), offset)
        found = [v.load_bytes(v.at(address, v.lanes * i)) for i in range(self.part_scale_bytes)]
        if self.has_min and not self.has_own_minima:
            low = [v.b.and_(both, v.splat(I32, 15)) for both in found]
            found = low + [v.b.lshr(both, v.splat(I32, 4)) for both in found]
        elif self.has_signed_scales:
            found = [v.sign_extend_byte(scale) for scale in found]
        whole = [v.b.sitofp(scale, v.f32) for scale in found]
        return [v.b.fmul(factors[i // self.groups], scale) for i, scale in enumerate(whole)]

    def _codes(self, v: Simd, address: ir.Value) -> list[ir.Value]:
        codes: list[ir.Value | None] = [None] * WORDS
        lowest = self.file_block.bits
        for plane in self.file_block.planes:
            lowest -= plane.bits
            words = [v.load(v.at(address, k * v.bytes), v.u8) for k in range(plane.bits)]
            address = v.at(address, plane.bits * v.bytes)
            for index in range(WORDS):
                field = self._field(v, words[index % plane.bits], index, plane.bits, lowest)
                have = codes[index]
                codes[index] = field if have is None else v.b.or_(have, field)
        return [self._meaning(v, code) for code in codes]

    def _field(self, v: Simd, word: ir.Value, index: int, bits: int, lowest: int) -> ir.Value:
        """Field `index // bits` of a word, moved to bit `lowest`."""
        left = lowest - bits * (index // bits)
        if left:
            move = v.b.shl if left > 0 else v.b.lshr
            word = move(word, v.splat(I8, abs(left)))
        mask = (1 << bits) - 1 << lowest
        return word if mask == 0xFF else v.b.and_(word, v.splat(I8, mask))

    def _meaning(self, v: Simd, code: ir.Value) -> ir.Value:
        """The byte that is multiplied: unsigned, or int8 where `_moves_signs`."""
        is_unsigned = self.is_signed and not self._moves_signs(v)
        if self.levels:
            return v.look_up(tuple(level + 128 * is_unsigned for level in self.levels), code)
        return v.b.xor(code, v.splat(I8, 0x80)) if is_unsigned else code

    def _moves_signs(self, v: Simd) -> bool:
        """Without vpdpbusd 8-bit products could overflow 16 bits, so the weights' signs move over
        to the activations, which leaves magnitudes of at most 128."""
        return self.is_signed and v.level.name != "avx512_vnni"

    # ---- multiplying

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        codes = weights[-WORDS:]
        scales, minima = self._split(weights[:-WORDS])
        signed = [v.broadcast_bytes(v.at(acts, 4 * i)) for i in range(WORDS)]
        unsigned, signed, largest = self._operands(v, codes, signed)
        if len(scales) == 2:
            return self._multiply_halves(
                v, (unsigned, signed, largest), (scales, minima), acts, totals
            )
        start = self._start(v, v.load_scalar(v.at(acts, NEG_SUM_AT), I32))
        products = v.dot_bytes(start, unsigned, signed, largest)
        scale = v.b.fmul(scales[0], v.broadcast_f32(v.at(acts, SCALE_AT)))
        totals = [v.fma(v.b.sitofp(products, v.f32), scale, totals[0]), *totals[1:]]
        if minima:
            scaled_sum = v.broadcast_f32(v.at(acts, SCALED_SUM_AT))
            totals[-1] = v.fma(minima[0], scaled_sum, totals[-1])
        return totals

    def _multiply_halves(
        self,
        v: Simd,
        operands: tuple[list[ir.Value], list[ir.Value], int],
        factors: tuple[list[ir.Value], list[ir.Value]],
        acts: ir.Value,
        totals: list[ir.Value],
    ) -> list[ir.Value]:
        """Groups of 16: two in a block of activations."""
        b, (unsigned, signed, largest), (scales, minima) = v.b, operands, factors
        first = v.load_scalar(v.at(acts, NEG_FIRST_SUM_AT), I32)
        second = b.sub(v.load_scalar(v.at(acts, NEG_SUM_AT), I32), first)
        total = None
        for half, negative_sum in enumerate((first, second)):
            part = slice(4 * half, 4 * half + 4)
            start = self._start(v, negative_sum)
            products = v.dot_bytes(start, unsigned[part], signed[part], largest, chains=1)
            exact = b.sitofp(products, v.f32)
            scaled = b.fmul(exact, scales[half])
            total = scaled if total is None else v.fma(exact, scales[half], total)
            if minima:
                sums = b.sitofp(b.sub(v.splat(I32, 0), negative_sum), v.f32)
                total = v.fma(sums, minima[half], total)
        scale = v.broadcast_f32(v.at(acts, SCALE_AT))
        return [v.fma(total, scale, totals[0]), *totals[1:]]

    def _split(self, factors: list[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
        """Scales, minima."""
        count = max(self.groups, 1)
        return factors[:count], factors[count:]

    def _start(self, v: Simd, negative_sum: ir.Value) -> ir.Value:
        """-offset * sum of the activations: undoes the offset of unsigned codes."""
        offset = 128 if self.is_signed and not self._moves_signs(v) else self.offset
        if not offset:
            return v.splat(I32, 0)
        return v.b.shl(negative_sum, v.splat(I32, offset.bit_length() - 1))

    def _operands(
        self, v: Simd, codes: list[ir.Value], signed: list[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value], int]:
        """Unsigned and signed factors and the largest unsigned one."""
        if not self._moves_signs(v):
            largest = 255 if self.is_signed else max((*self.levels, 2**self.file_block.bits - 1))
            return codes, signed, largest
        no = ir.Constant(ir.IntType(1), 0)
        magnitudes = [v.call(f"llvm.abs.v{v.bytes}i8", v.u8, code, no) for code in codes]
        moved = [v.take_sign(a, code) for a, code in zip(signed, codes, strict=True)]
        return magnitudes, moved, 128
