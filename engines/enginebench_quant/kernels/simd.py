"""A small vocabulary of vector instructions, emitted as LLVM IR for one CPU level.

numba cannot name a vector, so the kernels' inner loops are written with this class inside
`@intrinsic` functions. Addresses are i64 values; a "vector" has `lanes` elements of 32 bits or
`4 * lanes` bytes. It knows nothing of weights or models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import llvmlite.binding as llvm
from llvmlite import ir

from enginebench_quant.kernels.features import LEVELS

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, HALF = ir.FloatType(), ir.HalfType()

LOG2E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # Cody-Waite split of ln 2
EXP_COEFFICIENTS = (1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0)
EXP_MIN, EXP_MAX = -87.0, 88.0


def vector(kind: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(kind, lanes)


class Simd:
    """Emits vector code for the CPU level called `level_name` through `builder`."""

    def __init__(self, builder: ir.IRBuilder, level_name: str) -> None:
        self.b = builder
        self.level = LEVELS[level_name]
        self.lanes = self.level.lanes
        self.bytes = 4 * self.lanes
        self.f32 = vector(F32, self.lanes)
        self.i32 = vector(I32, self.lanes)
        self.u8 = vector(I8, self.bytes)

    # ---- constants and addresses

    def const(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def splat(self, kind: ir.Type, value: float) -> ir.Constant:
        """A constant vector: as many lanes as fill a whole register."""
        lanes = {8: self.bytes, 16: 2 * self.lanes}.get(getattr(kind, "width", 32), self.lanes)
        return ir.Constant(vector(kind, lanes), [value] * lanes)

    def at(self, base: ir.Value, offset: int) -> ir.Value:
        return self.b.add(base, self.const(offset)) if offset else base

    def load(self, address: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=align, typ=kind)

    def store(self, value: ir.Value, address: ir.Value, align: int = 1) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=align)

    def broadcast(self, scalar: ir.Value) -> ir.Value:
        kind = vector(scalar.type, self.lanes)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, one, ir.Constant(self.i32, [0] * self.lanes))

    def broadcast_f32(self, address: ir.Value) -> ir.Value:
        return self.load_scalar(address, F32)

    def load_scalar(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        """One number of 32 bits in every lane."""
        return self.broadcast(self.load(address, kind, align=4))

    def broadcast_bytes(self, address: ir.Value) -> ir.Value:
        """Four bytes repeated in every lane, as a vector of bytes."""
        return self.b.bitcast(self.broadcast(self.load(address, I32, align=4)), self.u8)

    def call(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        kind = ir.FunctionType(result, [arg.type for arg in args])
        known = self.b.module.globals.get(name)
        return self.b.call(known or ir.Function(self.b.module, kind, name), args)

    # ---- floats

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        if self.level.name == "plain":  # llvm.fma would call libm where the CPU has none
            return self.b.fadd(self.b.fmul(x, y), z)
        return self.call(f"llvm.fma.v{self.lanes}f32", self.f32, x, y, z)

    def load_f16(self, address: ir.Value) -> ir.Value:
        """`lanes` halves, as floats."""
        if self.level.name != "plain":
            return self.b.fpext(self.load(address, vector(HALF, self.lanes)), self.f32)
        return self._half_bits_to_f32(self.load(address, vector(I16, self.lanes)))

    def _half_bits_to_f32(self, bits: ir.Value) -> ir.Value:
        """Shift into place, then let a multiplication by 2**112 move the exponent's bias."""
        wide = self.b.zext(bits, self.i32)
        magnitude = self.b.shl(self.b.and_(wide, self.splat(I32, 0x7FFF)), self.splat(I32, 13))
        sign = self.b.shl(self.b.and_(wide, self.splat(I32, 0x8000)), self.splat(I32, 16))
        scaled = self.b.fmul(self.b.bitcast(magnitude, self.f32), self.splat(F32, 2.0**112))
        return self.b.bitcast(self.b.or_(self.b.bitcast(scaled, self.i32), sign), self.f32)

    def load_bf16(self, address: ir.Value) -> ir.Value:
        bits = self.b.zext(self.load(address, vector(I16, self.lanes)), self.i32)
        return self.b.bitcast(self.b.shl(bits, self.splat(I32, 16)), self.f32)

    def load_bytes(self, address: ir.Value) -> ir.Value:
        """`lanes` unsigned bytes, as integers."""
        return self.b.zext(self.load(address, vector(I8, self.lanes)), self.i32)

    def sign_extend_byte(self, value: ir.Value) -> ir.Value:
        """Integers 0 .. 255 as the int8 that their bits are."""
        shift = self.splat(I32, 24)
        return self.b.ashr(self.b.shl(value, shift), shift)

    def load_exponents(self, address: ir.Value) -> ir.Value:
        """`lanes` bytes e as 2**(e - 128), subnormal where e is 0 or 1."""
        b = self.b
        exponents = self.load_bytes(address)
        normal = b.shl(b.sub(exponents, self.splat(I32, 1)), self.splat(I32, 23))
        subnormal = b.shl(self.splat(I32, 1 << 21), exponents)
        is_small = b.icmp_unsigned("<", exponents, self.splat(I32, 2))
        return b.bitcast(b.select(is_small, subnormal, normal), self.f32)

    def f32_to_half_bits(self, value: ir.Value) -> ir.Value:
        """One float to the 16 bits of the nearest half (ties to even; too large: infinite)."""
        b = self.b
        if self.level.name != "plain":
            return b.bitcast(b.fptrunc(value, HALF), I16)

        def i32(number: int) -> ir.Constant:
            return ir.Constant(I32, number)

        bits = b.bitcast(value, I32)
        sign = b.and_(b.lshr(bits, i32(16)), i32(0x8000))
        magnitude = b.and_(bits, i32(0x7FFFFFFF))
        odd = b.and_(b.lshr(magnitude, i32(13)), i32(1))
        normal = b.lshr(b.add(b.add(magnitude, i32(0xC8000FFF)), odd), i32(13))
        small = b.fadd(b.bitcast(magnitude, F32), ir.Constant(F32, 0.5))
        subnormal = b.sub(b.bitcast(small, I32), i32(0x3F000000))
        is_small = b.icmp_unsigned("<", magnitude, i32(113 << 23))
        is_large = b.icmp_unsigned(">=", magnitude, i32(0x477FF000))
        half = b.select(is_large, i32(0x7C00), b.select(is_small, subnormal, normal))
        return b.trunc(b.or_(half, sign), I16)

    def exp(self, x: ir.Value) -> ir.Value:
        """e**x to about 1e-7 relative; the argument is clamped to what a float can hold."""
        b = self.b
        x = self.max(self.min(x, self.splat(F32, EXP_MAX)), self.splat(F32, EXP_MIN))
        n = self.call(
            f"llvm.floor.v{self.lanes}f32",
            self.f32,
            self.fma(x, self.splat(F32, LOG2E), self.splat(F32, 0.5)),
        )
        r = self.fma(n, self.splat(F32, -LN2_HIGH), x)
        r = self.fma(n, self.splat(F32, -LN2_LOW), r)
        value = self.splat(F32, EXP_COEFFICIENTS[0])
        for coefficient in EXP_COEFFICIENTS[1:]:
            value = self.fma(value, r, self.splat(F32, coefficient))
        exponent = b.add(b.fptosi(n, self.i32), self.splat(I32, 127))
        return b.fmul(value, b.bitcast(b.shl(exponent, self.splat(I32, 23)), self.f32))

    def max(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.select(self.b.fcmp_ordered(">", x, y), x, y)

    def min(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.select(self.b.fcmp_ordered("<", x, y), x, y)

    def abs(self, x: ir.Value) -> ir.Value:
        return self.call(f"llvm.fabs.v{self.lanes}f32", self.f32, x)

    def horizontal(self, x: ir.Value, merge: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
        """All lanes of `x` merged into every lane, by halves."""
        width = self.lanes
        while width > 1:
            width //= 2
            order = [lane ^ width for lane in range(self.lanes)]
            x = merge(x, self.b.shuffle_vector(x, x, ir.Constant(self.i32, order)))
        return x

    def first(self, x: ir.Value) -> ir.Value:
        return self.b.extract_element(x, ir.Constant(I32, 0))

    # ---- integers

    def take_sign(self, value: ir.Value, sign: ir.Value) -> ir.Value:
        """Bytes of `value`, negated where those of `sign` are negative."""
        if self.level.name == "avx2":  # which makes them zero where `sign` is; so is its magnitude
            return self.call("llvm.x86.avx2.psign.b", self.u8, value, sign)
        is_negative = self.b.icmp_signed("<", sign, self.splat(I8, 0))
        return self.b.select(is_negative, self.b.neg(value), value)

    def look_up(self, table: tuple[int, ...], codes: ir.Value) -> ir.Value:
        """table[code] for bytes of codes 0 .. 15."""
        values = [value & 0xFF for value in table]
        if self.level.name == "plain":
            return self._look_up_plain(values, codes)
        name = {"avx2": "avx2.pshuf.b", "avx512_vnni": "avx512.pshuf.b.512"}[self.level.name]
        repeated = ir.Constant(self.u8, values * (self.bytes // 16))
        return self.call(f"llvm.x86.{name}", self.u8, repeated, codes)

    def _look_up_plain(self, values: list[int], codes: ir.Value) -> ir.Value:
        """A tree of choices, by one bit of the codes after the other."""
        found = [self.splat(I8, value) for value in values]
        for bit in range(4):
            has_bit = self.b.icmp_unsigned(
                "!=", self.b.and_(codes, self.splat(I8, 1 << bit)), self.splat(I8, 0)
            )
            pairs = zip(found[::2], found[1::2], strict=True)
            found = [self.b.select(has_bit, one, zero) for zero, one in pairs]
        return found[0]

    def dot_bytes(
        self,
        total: ir.Value,
        unsigned: list[ir.Value],
        signed: list[ir.Value],
        largest: int,
        *,
        chains: int = 2,
    ) -> ir.Value:
        """`total` plus the 32-bit lanes' sums of four products each, over all pairs of vectors.

        `unsigned` elements are at most `largest`, `signed` ones within -127..127: on AVX2 this
        tells how many 16-bit sums can be added before they could overflow. `chains` sums are kept
        apart where one waits for the other: more than one hides the latency.
        """
        if self.level.name == "avx512_vnni":
            return self._dot_vnni(total, unsigned, signed, chains)
        pair_sums = self._pair_sums_avx2 if self.level.name == "avx2" else self._pair_sums_plain
        together = 1 << ((32767 // (2 * 127 * largest)).bit_length() - 1)
        pairs = list(zip(unsigned, signed, strict=True))
        for start in range(0, len(pairs), together):
            sums = [pair_sums(u, s) for u, s in pairs[start : start + together]]
            while len(sums) > 1:
                sums = [self.b.add(x, y) for x, y in zip(sums[::2], sums[1::2], strict=True)]
            total = self.b.add(total, self._widen_pairs(sums[0]))
        return total

    def _dot_vnni(
        self, total: ir.Value, unsigned: list[ir.Value], signed: list[ir.Value], chains: int
    ) -> ir.Value:
        sums = [total, *[self.splat(I32, 0)] * (chains - 1)]
        operand = self.u8 if llvm.llvm_version_info >= (22,) else self.i32
        for index, (u, s) in enumerate(zip(unsigned, signed, strict=True)):
            sums[index % chains] = self.call(
                "llvm.x86.avx512.vpdpbusd.512",
                self.i32,
                sums[index % chains],
                self.b.bitcast(u, operand),
                self.b.bitcast(s, operand),
            )
        return functools.reduce(self.b.add, sums)

    def _pair_sums_avx2(self, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
        return self.call("llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), unsigned, signed)

    def _pair_sums_plain(self, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
        wide = vector(I16, self.bytes)
        products = self.b.mul(self.b.zext(unsigned, wide), self.b.sext(signed, wide))
        return self._add_neighbours(products)

    def _widen_pairs(self, sums: ir.Value) -> ir.Value:
        """16-bit pair sums to 32-bit lanes."""
        if self.level.name == "avx2":
            return self.call("llvm.x86.avx2.pmadd.wd", self.i32, sums, self.splat(I16, 1))
        return self._add_neighbours(self.b.sext(sums, vector(I32, 2 * self.lanes)))

    def _add_neighbours(self, x: ir.Value) -> ir.Value:
        half = x.type.count // 2
        even, odd = (
            self.b.shuffle_vector(
                x, x, ir.Constant(vector(I32, half), [2 * i + start for i in range(half)])
            )
            for start in (0, 1)
        )
        return self.b.add(even, odd)
