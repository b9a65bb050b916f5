"""How a quantized KV cache lies in memory, and the formats that read it.

A row is the keys, or the values, of one position in one kv head. It is cut into blocks of 32
elements with a factor each, as Q8_0 and Q4_0 are: 34 or 18 bytes for 32 elements. For Q4_0 element
j of a block shares a byte with element j + 16 (keys) or j + lanes (values).

Keys are interleaved like a weight whose rows are positions: (kv head, position / lanes, block),
then `lanes` factors and the codes, `lanes` side by side. Values would need factors along the
positions, which come one by one; so their codes lie alone, (kv head, element / lanes, position,
lanes), two groups of elements in one for Q4_0; behind the codes of a kv head come its factors,
(block, position), by which the scores are multiplied first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llvmlite import ir

from enginebench_quant.kernels.simd import F32, I8, I32, Simd, vector

__all__ = ["BLOCK", "CACHE_FORMATS", "KV_BITS", "block_bytes"]

BLOCK: Final = 32
COLUMNS: Final = 4  # of a part
FACTOR_BYTES: Final = 2
KV_BITS: Final = {"f16": 16, "q8_0": 8, "q4_0": 4}


def block_bytes(bits: int) -> int:
    """Of 32 elements."""
    return 2 * BLOCK if bits == 16 else FACTOR_BYTES + BLOCK * bits // 8


@dataclass(frozen=True, slots=True)
class KeyFormat:
    """Keys: a step is a block of every position of a group."""

    name: str
    bits: int
    block: int = BLOCK
    parts: int = BLOCK // COLUMNS
    activations: Literal["int8", "float"] = "float"

    @property
    def block_bytes(self) -> int:
        return block_bytes(self.bits)

    def begin(self, v: Simd, step: ir.Value) -> list[ir.Value]:
        return [v.load_f16(step)]

    def load(
        self, v: Simd, step: ir.Value, part: ir.Value, factors: list[ir.Value]
    ) -> list[ir.Value]:
        """For Q4_0 parts 0 to 3 are low halves, 4 to 7 the high ones of the same bytes."""
        codes = v.at(step, FACTOR_BYTES * v.lanes)
        shift = None
        if self.bits == 4:
            shift = v.b.shl(v.b.trunc(v.b.lshr(part, v.const(2)), I32), ir.Constant(I32, 2))
            part = v.b.and_(part, v.const(3))
        first = v.b.add(codes, v.b.mul(part, v.const(COLUMNS * v.lanes)))
        found = []
        for column in range(COLUMNS):
            code = _codes(v, v.at(first, column * v.lanes), self.bits, shift)
            found.append(v.b.fmul(code, factors[0]))
        return found

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        return _multiply(v, weights, acts, totals)


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """Codes of values alone: a step is four positions of `lanes` elements."""

    name: str
    bits: int
    shift: int = 0
    block: int = COLUMNS
    parts: int = 1
    block_bytes: int = COLUMNS
    activations: Literal["int8", "float"] = "float"

    def begin(self, v: Simd, step: ir.Value) -> list[ir.Value]:
        return []

    def load(
        self, v: Simd, step: ir.Value, part: ir.Value, factors: list[ir.Value]
    ) -> list[ir.Value]:
        shift = ir.Constant(I32, self.shift) if self.bits == 4 else None
        return [_codes(v, v.at(step, c * v.lanes), self.bits, shift) for c in range(COLUMNS)]

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        return _multiply(v, weights, acts, totals)


def _codes(v: Simd, address: ir.Value, bits: int, shift: ir.Value | None) -> ir.Value:
    """`lanes` codes as floats: int8, or the 4 bits above `shift` less 8."""
    if bits == 8:
        signed = v.b.sext(v.load(address, vector(I8, v.lanes)), v.i32)
        return v.b.sitofp(signed, v.f32)
    shifted = v.b.lshr(v.load_bytes(address), v.broadcast(shift))
    small = v.b.and_(shifted, v.splat(I32, 15))
    return v.b.fsub(v.b.sitofp(small, v.f32), v.splat(F32, 8.0))


def _multiply(
    v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
) -> list[ir.Value]:
    totals = list(totals)
    for column, weight in enumerate(weights):
        which = column % len(totals)
        totals[which] = v.fma(weight, v.broadcast_f32(v.at(acts, 4 * column)), totals[which])
    return totals


CACHE_FORMATS = {
    form.name: form
    for form in (
        KeyFormat("KEYS_Q8", 8),
        KeyFormat("KEYS_Q4", 4),
        ValueFormat("VALUES_Q8", 8),
        ValueFormat("VALUES_Q4_LOW", 4),
        ValueFormat("VALUES_Q4_HIGH", 4, shift=4),
    )
}
