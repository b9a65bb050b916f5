"""Pieces of kernels: tiles of packed blocks, their products with int8 activations, their values.

A tile is (blocks, rows, words of a block): with blocks first, the compiler gives each lane whole
blocks of 16 bytes, and neighbours in a row to neighbouring lanes. Planes with one number a block
are addressed through `block ^ zero`, where `zero` is 0 but unknown to the compiler: it would
otherwise widen those loads, spread them over other lanes, and move every number back through
shared memory.
"""

import triton
import triton.language as tl


@triton.jit
def load_tile(
    codes, high, scales, supers, row, block, inside, zero,
    BLOCKS: tl.constexpr, CODES: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    """All fields of blocks `block` in rows `row`; `inside` masks (blocks, rows, 1)."""
    row_at = row.to(tl.int64)[None, :, None] * BLOCKS
    word = tl.arange(0, 4)[None, None, :]
    words = (row_at + block[:, None, None]) * 4 + word
    low = tl.load(codes + words, mask=inside, other=0, eviction_policy="evict_first")
    single = row_at + (block ^ zero)[:, None, None]
    first_high = low
    second_high = low
    if CODES == "u5":
        first_high = tl.load(high + single, mask=inside, other=0)
    elif CODES == "u6":
        first_high = tl.load(high + single + row_at, mask=inside, other=0)
        second_high = tl.load(high + single + row_at + BLOCKS, mask=inside, other=0)
    elif CODES == "i8":
        first_high = tl.load(high + words, mask=inside, other=0, eviction_policy="evict_first")
    scale = tl.load(scales + single, mask=inside, other=0)
    over = scale
    if (SCALES == "k") | (SCALES == "k16") | (SCALES == "ks"):
        at = row.to(tl.int64)[None, :, None] * (BLOCKS // 8) + ((block ^ zero) // 8)[:, None, None]
        over = tl.load(supers + at, mask=inside, other=0)
    return low, first_high, second_high, scale, over


@triton.jit
def _half(word):
    """The f16 in the low 16 bits of an i32."""
    return (word & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def tile_scales(scale, over, SCALES: tl.constexpr):
    """Scale of the first half of each block, of the second half, and what each code adds."""
    if SCALES == "d":
        first = scale.to(tl.float32)
        return first, first, first
    elif SCALES == "dm":
        first = _half(scale)
        return first, first, _half(scale >> 16)
    elif SCALES == "k":
        pair = scale.to(tl.int32)
        first = _half(over) * (pair & 0xFF).to(tl.float32)
        return first, first, -(_half(over >> 16) * ((pair >> 8) & 0xFF).to(tl.float32))
    elif SCALES == "ks":
        first = over.to(tl.float32) * scale.to(tl.float32)
        return first, first, first
    elif SCALES == "e8":  # 2 ** (e - 128); exponents 0 and 1 make subnormal floats
        power = scale.to(tl.int32)
        bits = tl.where(power < 2, 0x00200000 << power, (power - 1) << 23)
        first = bits.to(tl.float32, bitcast=True)
        return first, first, first
    else:
        pair = scale.to(tl.int32)
        unit = over.to(tl.float32)
        first = unit * ((pair << 24) >> 24).to(tl.float32)
        second = unit * (pair >> 8).to(tl.float32)
        return first, second, first


@triton.jit
def level_words(
    low, L0: tl.constexpr, L1: tl.constexpr, L2: tl.constexpr, L3: tl.constexpr,
    NATIVE: tl.constexpr,
):  # fmt: skip
    """Each nibble's level, of 16 that four words hold, lowest byte first: low nibbles' and high's.

    prmt picks bytes of two words by 3 bits of each nibble, for either half of the table; a second
    one picks between the halves by the fourth bit, a third one parts low nibbles from high ones.
    """
    if NATIVE:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 sel, top, a, b, low4, high4;
            and.b32 sel, $2, 0x77777777;
            shr.u32 top, $2, 1;
            and.b32 top, top, 0x44444444;
            or.b32 top, top, 0x32103210;
            prmt.b32 a, $3, $4, sel;
            prmt.b32 b, $5, $6, sel;
            prmt.b32 low4, a, b, top;
            shr.u32 sel, sel, 16;
            shr.u32 top, top, 16;
            prmt.b32 a, $3, $4, sel;
            prmt.b32 b, $5, $6, sel;
            prmt.b32 high4, a, b, top;
            prmt.b32 $0, low4, high4, 0x6420;
            prmt.b32 $1, low4, high4, 0x7531;
            }""",
            "=r,=r,r,r,r,r,r", [low, low * 0 + L0, low * 0 + L1, low * 0 + L2, low * 0 + L3],
            dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        first = low * 0
        second = low * 0
        for byte in tl.static_range(4):
            code = (low >> (8 * byte)) & 15
            first = first | (_level(code, L0, L1, L2, L3) << (8 * byte))
            code = (low >> (8 * byte + 4)) & 15
            second = second | (_level(code, L0, L1, L2, L3) << (8 * byte))
        return first, second


@triton.jit
def _level(code, L0: tl.constexpr, L1: tl.constexpr, L2: tl.constexpr, L3: tl.constexpr):
    """The byte of a level."""
    zero = code * 0
    lower = tl.where(code < 4, zero + L0, zero + L1)
    upper = tl.where(code < 12, zero + L2, zero + L3)
    return (tl.where(code < 8, lower, upper) >> ((code & 3) * 8)) & 0xFF


@triton.jit
def is_signed(CODES: tl.constexpr):
    """Whether `tile_words` gives signed bytes."""
    return (CODES == "i8") | (CODES == "iq4") | (CODES == "fp4")


@triton.jit
def tile_words(low, first_high, second_high, CODES: tl.constexpr, NATIVE: tl.constexpr):
    """Codes of columns 0 to 15 and 16 to 31 of each block, a byte each: (blocks, rows, 4)."""
    if CODES == "i8":
        return low, first_high
    elif CODES == "iq4":  # bytes of planes.LEVELS, as signed numbers
        return level_words(low, -0x4052677F, -0x09152231, 0x26190D01, 0x71594535, NATIVE)
    elif CODES == "fp4":
        return level_words(low, 0x03020100, 0x0C080604, -0x02010100, -0x0B070504, NATIVE)
    else:
        first = low & 0x0F0F0F0F
        second = (low >> 4) & 0x0F0F0F0F
        word = tl.arange(0, 4)[None, None, :]
        if CODES == "u5":
            first = first | (((first_high >> word) & 0x01010101) << 4)
            second = second | (((first_high >> (word + 4)) & 0x01010101) << 4)
        elif CODES == "u6":
            first = first | (((first_high >> (word * 2)) & 0x03030303) << 4)
            second = second | (((second_high >> (word * 2)) & 0x03030303) << 4)
        return first, second


@triton.jit
def byte_dot(codes, x, SIGNED: tl.constexpr, NATIVE: tl.constexpr):
    """Sum over the four bytes of codes (signed or not) times x (signed)."""
    if NATIVE:
        if SIGNED:
            return tl.inline_asm_elementwise(
                "dp4a.s32.s32 $0, $1, $2, 0;", "=r,r,r", [codes, x],
                dtype=tl.int32, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                "dp4a.u32.s32 $0, $1, $2, 0;", "=r,r,r", [codes, x],
                dtype=tl.int32, is_pure=True, pack=1,
            )  # fmt: skip
    else:
        total = codes * 0
        for byte in tl.static_range(4):
            code = (codes >> (8 * byte)) & 0xFF
            if SIGNED:
                code = (code ^ 0x80) - 0x80
            total += code * ((((x >> (8 * byte)) & 0xFF) ^ 0x80) - 0x80)
        return total


@triton.jit
def tile_product(
    tile, x, R: tl.constexpr, CODES: tl.constexpr, SCALES: tl.constexpr, ZERO: tl.constexpr,
    NATIVE: tl.constexpr,
):  # fmt: skip
    """The tile times the quantized activations `x`, summed over its blocks: (rows,) f32."""
    low, first_high, second_high, scale, over = tile
    first_x, second_x, x_scale, first_sum, second_sum = x
    first, second = tile_words(low, first_high, second_high, CODES, NATIVE)
    first = byte_dot(first, first_x[:, None, :], is_signed(CODES), NATIVE)
    second = byte_dot(second, second_x[:, None, :], is_signed(CODES), NATIVE)
    first_scale, second_scale, minimum = tile_scales(scale, over, SCALES)
    BT: tl.constexpr = scale.shape[0]
    first_scale = tl.reshape(first_scale, (BT, R))
    if SCALES == "k16":
        second_scale = tl.reshape(second_scale, (BT, R))
        first = tl.sum(first, axis=2) - (ZERO * first_sum)[:, None]
        second = tl.sum(second, axis=2) - (ZERO * second_sum)[:, None]
        total = first_scale * first.to(tl.float32) + second_scale * second.to(tl.float32)
    else:
        dot = tl.sum(first + second, axis=2)
        x_sum = first_sum + second_sum
        if ZERO:
            dot = dot - (ZERO * x_sum)[:, None]
        total = first_scale * dot.to(tl.float32)
        if (SCALES == "dm") | (SCALES == "k"):
            minimum = tl.reshape(minimum, (BT, R))
            total += minimum * x_sum.to(tl.float32)[:, None]
    return tl.sum(total * x_scale[:, None], axis=0)


@triton.jit
def store_quantized(v, words, scales, sums, first_block, blocks, BT: tl.constexpr):
    """v (BT, 32) into blocks first_block .. of an Int8Vector of `blocks` blocks."""
    first, second, scale, first_sum, second_sum = quantized(v, BT)
    block = first_block + tl.arange(0, BT)
    at = block[:, None] * 4 + tl.arange(0, 4)[None, :]
    inside = block < blocks
    tl.store(words + at, first, mask=inside[:, None])
    tl.store(words + blocks * 4 + at, second, mask=inside[:, None])
    tl.store(scales + block, scale, mask=inside)
    tl.store(sums + block, (first_sum & 0xFFFF) | (second_sum << 16), mask=inside)


@triton.jit
def load_quantized(words, scales, sums, zero, BLOCKS: tl.constexpr, BT: tl.constexpr):
    """A whole Int8Vector, as `quantized` yields it."""
    block = tl.arange(0, BT)
    inside = block < BLOCKS
    at = block[:, None] * 4 + tl.arange(0, 4)[None, :]
    first = tl.load(words + at, mask=inside[:, None], other=0)
    second = tl.load(words + BLOCKS * 4 + at, mask=inside[:, None], other=0)
    scale = tl.load(scales + (block ^ zero), mask=inside, other=0.0)
    pair = tl.load(sums + (block ^ zero), mask=inside, other=0)
    return first, second, scale, (pair << 16) >> 16, pair >> 16


@triton.jit
def quantized(v, BT: tl.constexpr):
    """Activations v (blocks, 32) as int8 with a scale a block, in the order of tile_words.

    Words of columns 0 to 15 and 16 to 31 (blocks, 4), scales, and the sums of either half's codes.
    """
    largest = tl.max(tl.abs(v), axis=1)
    inverse = tl.where(largest > 0, 127.0 / tl.where(largest > 0, largest, 1.0), 0.0)
    steps = (v * inverse[:, None] + 12582912.0) - 12582912.0  # 1.5 * 2**23: rounds to even
    code = tl.reshape(steps.to(tl.int32), (BT, 2, 16))
    sums = tl.sum(code, axis=2)  # (blocks, 2)
    shift = (tl.arange(0, 4) * 8)[None, None, None, :]
    byte = (tl.reshape(code, (BT, 2, 4, 4)) & 0xFF) << shift
    first, second = tl.split(tl.permute(tl.sum(byte, axis=3), (0, 2, 1)))
    first_sum, second_sum = tl.split(sums)
    return first, second, largest * (1.0 / 127.0), first_sum, second_sum
