"""How each tensor type is laid out for the kernels, and the IR that multiplies it.

Rows are interleaved in groups of `lanes`, so that a vector holds the same four columns of every
row of its group: dot products need no sums across lanes, and the scales of a group are one load.
A step covers `block` columns of a group and takes `lanes * block_bytes` bytes, exactly as many as
in the file. `layout.py` writes what `load` reads here.

Activations come as quantized blocks of 32 (`BLOCK_BYTES`: 32 int8, then the scale, the scale times
the sum, and minus the sum as int32) or as plain floats, whichever the format names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from llvmlite import ir

from enginebench_quant.kernels.simd import I8, I32, Simd

__all__ = ["BLOCK", "BLOCK_BYTES", "FORMATS", "NEG_SUM_AT", "SCALED_SUM_AT", "SCALE_AT", "Format"]

BLOCK = 32
BLOCK_BYTES = 48
SCALE_AT, SCALED_SUM_AT, NEG_SUM_AT = 32, 36, 40  # byte offsets in an activation block

Activations = Literal["int8", "float"]


class Format(Protocol):
    """One tensor type as the kernels see it."""

    @property
    def name(self) -> str: ...

    @property
    def block(self) -> int:
        """Columns of a step."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of a step in one row."""
        ...

    @property
    def activations(self) -> Activations: ...

    def load(self, v: Simd, address: ir.Value) -> list[ir.Value]:
        """A step's weights of one group, unpacked into registers."""
        ...

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        """`totals` (float vectors that are summed at the end) plus this step's products."""
        ...


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """F32, F16 or BF16: one vector of a group's rows for each column."""

    name: str
    element_bytes: int
    block: int = 4
    activations: Activations = "float"

    @property
    def block_bytes(self) -> int:
        return self.block * self.element_bytes

    def load(self, v: Simd, address: ir.Value) -> list[ir.Value]:
        stride = self.element_bytes * v.lanes
        addresses = [v.at(address, column * stride) for column in range(self.block)]
        if self.name == "F16":
            return [v.load_f16(a) for a in addresses]
        if self.name == "BF16":
            return [v.load_bf16(a) for a in addresses]
        return [v.load(a, v.f32) for a in addresses]

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        totals = list(totals)
        for column, weight in enumerate(weights):
            which = column % len(totals)
            totals[which] = v.fma(weight, v.broadcast_f32(v.at(acts, 4 * column)), totals[which])
        return totals


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """A legacy block type: 32 columns share a scale, and a minimum if `has_min`.

    Value = scale * (code - offset), or scale * code + minimum. High bits of 5-bit codes lie
    in one byte for every four columns.
    """

    name: str
    bits: int
    offset: int
    has_min: bool = False
    block: int = BLOCK
    activations: Activations = "int8"

    @property
    def block_bytes(self) -> int:
        return 2 + 2 * self.has_min + 4 * self.bits

    def load(self, v: Simd, address: ir.Value) -> list[ir.Value]:
        half_bytes = 2 * v.lanes
        scales = [v.load_f16(address)]
        if self.has_min:
            scales.append(v.load_f16(v.at(address, half_bytes)))
        codes = v.at(address, half_bytes * len(scales))
        return scales + (
            self._load_bytes(v, codes) if self.bits == 8 else self._load_bits(v, codes)
        )

    def _load_bytes(self, v: Simd, address: ir.Value) -> list[ir.Value]:
        codes = [v.load(v.at(address, i * v.bytes), v.u8) for i in range(8)]
        if v.level.name == "avx512_vnni":
            return [v.b.xor(code, v.splat(I8, 0x80)) for code in codes]  # int8 to offset 128
        return codes

    def _load_bits(self, v: Simd, address: ir.Value) -> list[ir.Value]:
        b = v.b
        high = None
        if self.bits == 5:
            high = v.load(address, v.u8)
            address = v.at(address, v.bytes)
        packed = [v.load(v.at(address, i * v.bytes), v.u8) for i in range(4)]
        codes = [b.and_(p, v.splat(I8, 15)) for p in packed]
        codes += [b.lshr(p, v.splat(I8, 4)) for p in packed]
        if high is None:
            return codes
        return [b.or_(code, self._fifth_bit(v, high, i)) for i, code in enumerate(codes)]

    def _fifth_bit(self, v: Simd, high: ir.Value, index: int) -> ir.Value:
        shift = v.b.shl if index <= 4 else v.b.lshr
        return v.b.and_(shift(high, v.splat(I8, abs(4 - index))), v.splat(I8, 16))

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        b = v.b
        scales, codes = weights[: 1 + self.has_min], weights[1 + self.has_min :]
        signed = [v.broadcast_bytes(v.at(acts, 4 * i)) for i in range(8)]
        products = v.dot_bytes(self._start(v, acts), *self._operands(v, codes, signed))
        scale = b.fmul(scales[0], v.broadcast_f32(v.at(acts, SCALE_AT)))
        totals = [v.fma(b.sitofp(products, v.f32), scale, totals[0]), *totals[1:]]
        if self.has_min:
            minimum = v.broadcast_f32(v.at(acts, SCALED_SUM_AT))
            totals[-1] = v.fma(scales[1], minimum, totals[-1])
        return totals

    def _start(self, v: Simd, acts: ir.Value) -> ir.Value:
        """-offset * sum of the activations: undoes the offset of unsigned codes."""
        offset = 128 if self.bits == 8 and v.level.name == "avx512_vnni" else self.offset
        if not offset:
            return v.splat(I32, 0)
        negative_sum = v.broadcast(v.load(v.at(acts, NEG_SUM_AT), I32, align=4))
        return v.b.shl(negative_sum, v.splat(I32, offset.bit_length() - 1))

    def _operands(
        self, v: Simd, codes: list[ir.Value], signed: list[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value], int]:
        """Unsigned and signed factors and the largest unsigned one.

        Without vpdpbusd 8-bit products could overflow 16 bits, so the weights' signs move over to
        the activations, which leaves magnitudes of at most 128.
        """
        if self.bits < 8:
            return codes, signed, 2**self.bits - 1
        if v.level.name == "avx512_vnni":
            return codes, signed, 255
        magnitudes = [
            v.call(f"llvm.abs.v{v.bytes}i8", v.u8, code, ir.Constant(ir.IntType(1), 0))
            for code in codes
        ]
        moved = [self._take_sign(v, a, code) for a, code in zip(signed, codes, strict=True)]
        return magnitudes, moved, 128

    def _take_sign(self, v: Simd, value: ir.Value, sign: ir.Value) -> ir.Value:
        if v.level.name == "avx2":
            return v.call("llvm.x86.avx2.psign.b", v.u8, value, sign)
        is_negative = v.b.icmp_signed("<", sign, v.splat(I8, 0))
        return v.b.select(is_negative, v.b.neg(value), value)


_ALL: tuple[Format, ...] = (
    FloatFormat("F32", 4),
    FloatFormat("F16", 2),
    FloatFormat("BF16", 2),
    BlockFormat("Q4_0", bits=4, offset=8),
    BlockFormat("Q4_1", bits=4, offset=0, has_min=True),
    BlockFormat("Q5_0", bits=5, offset=16),
    BlockFormat("Q5_1", bits=5, offset=0, has_min=True),
    BlockFormat("Q8_0", bits=8, offset=0),
)
FORMATS = {form.name: form for form in _ALL}
