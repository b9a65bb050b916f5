"""Quantized matrices as the GPU kernels read them: planes of codes, high bits and scales.

Blocks of 18 or 210 bytes break wide loads, so each kind of field gets a tensor of its own, whose
rows are whole 16-byte words. A block is always 32 columns; what a super-block of 256 shares stands
in a plane of its own. The repack is exact: `values` gives what the file's blocks give, bit for
bit.

    codes   (rows, blocks, 4) i32   4 low bits; byte j of word i: column 4i + j, and 16 + 4i + j
                                    in the high nibble (8 bits: columns 0 to 15 as bytes)
    high    5 bits: (rows, blocks) i32, bit 8j + i is that of column 4i + j
            6 bits: (rows, 2, blocks) i32, one word a half, bits 8j + 2i of column 4i + j
            8 bits: (rows, blocks, 4) i32, columns 16 to 31
    scales  "d": f16; "dm": f16 scale and minimum in an i32; "k": u8 scale and u8 minimum in an i16;
            "k16": two i8 scales in an i16, one for each half; "ks": i8; "e8": an exponent, u8
    supers  (rows, blocks / 8) "k": f16 scale and f16 minimum in an i32; "k16", "ks": f16
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["BLOCK", "FORMATS", "BlockFormat", "Planes", "empty_planes", "repack", "values"]

BLOCK = 32
SUPER = 8  # blocks of a super-block
LEVELS = {  # what codes of the other types of four bits stand for
    "iq4": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    "fp4": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),  # twice the value
}
VALUES_AT_ONCE = 1 << 24  # bounds temporary memory while repacking


SCALE_TYPES = {
    "d": torch.float16,
    "dm": torch.int32,
    "k": torch.int16,
    "k16": torch.int16,
    "ks": torch.int8,
    "e8": torch.uint8,
}


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How codes become numbers: (code - zero) * scale, or code * scale + minimum."""

    codes: Literal["u4", "u5", "u6", "i8", "iq4", "fp4"]
    scales: Literal["d", "dm", "k", "k16", "ks", "e8"]
    zero: int
    block_bytes: int

    @property
    def bits(self) -> int:
        """Of a code."""
        return {"u5": 5, "u6": 6, "i8": 8}.get(self.codes, 4)

    @property
    def has_supers(self) -> bool:
        """Whether 256 columns share a scale."""
        return self.scales in ("k", "k16", "ks")

    @property
    def file_values(self) -> int:
        """Values in a block of the file."""
        return BLOCK * SUPER if self.has_supers else BLOCK

    @property
    def bytes_per_block(self) -> float:
        """What the planes take for 32 values."""
        codes = 4 * self.bits
        super_bytes = {"k": 4, "k16": 2, "ks": 2}.get(self.scales, 0) / SUPER
        return codes + super_bytes + SCALE_TYPES[self.scales].itemsize


FORMATS: dict[str, BlockFormat] = {
    "Q4_0": BlockFormat("u4", "d", 8, 18),
    "Q4_1": BlockFormat("u4", "dm", 0, 20),
    "Q5_0": BlockFormat("u5", "d", 16, 22),
    "Q5_1": BlockFormat("u5", "dm", 0, 24),
    "Q8_0": BlockFormat("i8", "d", 0, 34),
    "Q4_K": BlockFormat("u4", "k", 0, 144),
    "Q5_K": BlockFormat("u5", "k", 0, 176),
    "Q6_K": BlockFormat("u6", "k16", 32, 210),
    "IQ4_NL": BlockFormat("iq4", "d", 0, 18),
    "IQ4_XS": BlockFormat("iq4", "ks", 0, 136),
    "MXFP4": BlockFormat("fp4", "e8", 0, 17),
}


@dataclass(frozen=True, slots=True)
class Planes:
    """One matrix (rows, columns). Planes that a format has no use for are empty."""

    kind: str
    codes: Tensor
    high: Tensor
    scales: Tensor
    supers: Tensor

    @property
    def format(self) -> BlockFormat:
        return FORMATS[self.kind]

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    @property
    def blocks(self) -> int:
        """Blocks of 32 in a row."""
        return self.codes.shape[1]

    @property
    def columns(self) -> int:
        return self.blocks * BLOCK

    @property
    def n_bytes(self) -> int:
        return sum(plane.nbytes for plane in self.tensors)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.codes, self.high, self.scales, self.supers

    def slice(self, begin: int, end: int) -> Planes:
        """Rows begin:end, sharing memory."""
        return Planes(self.kind, *(t[begin:end] if t.numel() else t for t in self.tensors))


def empty_planes(kind: str, rows: int, columns: int, device: torch.device) -> Planes:
    """Room for a matrix."""
    form = FORMATS[kind]
    if columns % form.file_values:
        raise ValueError(f"rows of {columns} values are no whole number of {kind} blocks")
    blocks = columns // BLOCK
    high = {4: (0,), 5: (rows, blocks), 6: (rows, 2, blocks), 8: (rows, blocks, 4)}[form.bits]
    supers = (rows, blocks // SUPER) if form.has_supers else (0,)
    super_type = torch.int32 if form.scales == "k" else torch.float16
    return Planes(
        kind,
        torch.empty((rows, blocks, 4), dtype=torch.int32, device=device),
        torch.empty(high, dtype=torch.int32, device=device),
        torch.empty((rows, blocks), dtype=SCALE_TYPES[form.scales], device=device),
        torch.empty(supers, dtype=super_type, device=device),
    )


def repack(raw: Tensor, out: Planes) -> None:
    """Bytes of rows as in the file, (rows, bytes of a row) uint8, to planes on the same device."""
    form = out.format
    at_once = max(1, VALUES_AT_ONCE // out.columns)
    for begin in range(0, out.rows, at_once):
        piece = out.slice(begin, min(begin + at_once, out.rows))
        blocks = raw[begin : begin + piece.rows].view(piece.rows, -1, form.block_bytes)
        _REPACKERS[out.kind](blocks, piece)


# ---------------------------------------------------------------- fields of the file's blocks


def _words(field: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes of the last dimension as numbers of `dtype`."""
    return field.contiguous().view(dtype)


def _nibbles(packed: Tensor, run: int) -> Tensor:
    """Every `run` bytes give `run` low nibbles, then `run` high ones."""
    pairs = packed.unflatten(-1, (-1, 1, run))
    return torch.cat((pairs & 15, pairs >> 4), -2).flatten(-3)


def _crumbs(packed: Tensor, run: int) -> Tensor:
    """Every `run` bytes give four runs of two-bit fields, low ones first."""
    fields = packed.unflatten(-1, (-1, 1, run))
    return torch.cat([fields >> shift & 3 for shift in (0, 2, 4, 6)], -2).flatten(-3)


def _bits(packed: Tensor, run: int) -> Tensor:
    """Every `run` bytes give eight runs of single bits, low ones first."""
    fields = packed.unflatten(-1, (-1, 1, run))
    return torch.cat([fields >> shift & 1 for shift in range(8)], -2).flatten(-3)


def _single_bits(packed: Tensor) -> Tensor:
    """Eight bits of each byte in turn, lowest first."""
    return torch.stack([packed >> shift & 1 for shift in range(8)], -1).flatten(-2)


def _six_bit_pairs(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 8 scales and 8 minima, 6 bits each, in 12 bytes."""
    first, second, nibbles = packed.split(4, -1)
    scales = torch.cat((first & 63, nibbles & 15 | first >> 2 & 48), -1)
    minima = torch.cat((second & 63, nibbles >> 4 | second >> 2 & 48), -1)
    return scales, minima


# ---------------------------------------------------------------- planes from codes


def _put_codes(codes: Tensor, out: Planes) -> None:
    """codes (rows, blocks, 32) uint8, as many bits as the format has."""
    low = codes & 15
    out.codes.copy_(_words(low[..., :16] | low[..., 16:] << 4, torch.int32))
    if out.format.bits == 5:
        by_byte = (codes >> 4).unflatten(-1, (8, 4)).transpose(-1, -2)  # (.., byte j, bit i)
        out.high.copy_(_words(_gathered(by_byte, 1), torch.int32)[..., 0])
    if out.format.bits == 6:
        by_byte = (codes >> 4).unflatten(-1, (2, 4, 4)).transpose(-1, -2)  # (.., half, j, i)
        out.high.copy_(_words(_gathered(by_byte, 2), torch.int32)[..., 0].transpose(1, 2))


def _gathered(fields: Tensor, bits: int) -> Tensor:
    """Fields of the last dimension side by side in a byte."""
    total = fields[..., 0]
    for index in range(1, fields.shape[-1]):
        total = total | fields[..., index] << bits * index
    return total


def _put_pair(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Two bytes or halves side by side in one number of `out`."""
    out.copy_(_words(torch.stack((first, second), -1), out.dtype)[..., 0])


def _legacy(b: Tensor, out: Planes) -> None:
    form = out.format
    scale_bytes = 4 if form.scales == "dm" else 2
    out.scales.copy_(_words(b[..., :scale_bytes], out.scales.dtype)[..., 0])
    rest = b[..., scale_bytes:]
    if form.bits == 4:
        _put_codes(_nibbles(rest, 16), out)
    else:
        _put_codes(_nibbles(rest[..., 4:], 16) | _single_bits(rest[..., :4]) << 4, out)


def _q8_0(b: Tensor, out: Planes) -> None:
    out.scales.copy_(_words(b[..., :2], torch.float16)[..., 0])
    out.codes.copy_(_words(b[..., 2:18], torch.int32))
    out.high.copy_(_words(b[..., 18:], torch.int32))


def _affine_k(b: Tensor, out: Planes) -> None:
    out.supers.copy_(_words(b[..., :4], torch.int32)[..., 0])
    scales, minima = _six_bit_pairs(b[..., 4:16])
    _put_pair(scales.flatten(1), minima.flatten(1), out.scales)
    codes = _nibbles(b[..., -128:], 32)
    if out.format.bits == 5:
        codes = codes | _bits(b[..., 16:48], 32) << 4
    _put_codes(codes.reshape(out.rows, out.blocks, BLOCK), out)


def _q6_k(b: Tensor, out: Planes) -> None:
    out.supers.copy_(_words(b[..., 208:], torch.float16)[..., 0])
    out.scales.copy_(_words(b[..., 192:208], torch.int16).flatten(1))
    codes = _nibbles(b[..., :128], 64) | _crumbs(b[..., 128:192], 32) << 4
    _put_codes(codes.reshape(out.rows, out.blocks, BLOCK), out)


def _iq4_xs(b: Tensor, out: Planes) -> None:
    out.supers.copy_(_words(b[..., :2], torch.float16)[..., 0])
    high = _words(b[..., 2:4], torch.int16).int()
    high = torch.cat([high >> shift & 3 for shift in range(0, 16, 2)], -1)
    scales = (_nibbles(b[..., 4:8], 1).int() | high << 4) - 32
    out.scales.copy_(scales.reshape(out.rows, out.blocks))
    out.codes.copy_(_words(b[..., 8:], torch.int32).view(out.rows, out.blocks, 4))


def _mxfp4(b: Tensor, out: Planes) -> None:
    out.scales.copy_(b[..., 0])
    out.codes.copy_(_words(b[..., 1:], torch.int32))


_REPACKERS: dict[str, Callable[[Tensor, Planes], None]] = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"), _legacy),
    "Q8_0": _q8_0,
    "Q4_K": _affine_k,
    "Q5_K": _affine_k,
    "Q6_K": _q6_k,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}


# ---------------------------------------------------------------- and back


def values(planes: Planes) -> Tensor:
    """The matrix in float32, (rows, columns): the plain twin of every kernel that reads planes."""
    form = planes.format
    codes = _codes(planes)
    if form.codes in LEVELS:
        codes = torch.tensor(LEVELS[form.codes], device=codes.device)[codes]
    steps = (codes - form.zero).float()
    scale, minimum = _scales(planes)
    product = steps.unflatten(-1, (2, 16)) * scale
    if minimum is not None:
        product = product + minimum
    return product.reshape(planes.rows, planes.columns)


def _codes(planes: Planes) -> Tensor:
    """(rows, blocks, 32) i32."""
    bits = planes.format.bits
    packed = planes.codes.view(torch.uint8)
    if bits == 8:
        halves = planes.codes.view(torch.int8), planes.high.view(torch.int8)
        return torch.cat(halves, -1).int()
    codes = torch.cat((packed & 15, packed >> 4), -1).int()
    if bits == 5:
        high = planes.high.unsqueeze(-1).view(torch.uint8)  # (rows, blocks, 4 bytes j)
        fields = torch.stack([high >> i & 1 for i in range(8)], -2)
        codes = codes | fields.flatten(-2).int() << 4
    if bits == 6:
        words = planes.high.transpose(1, 2).contiguous()
        high = words.unsqueeze(-1).view(torch.uint8)  # (rows, blocks, 2 halves, 4 bytes j)
        fields = torch.stack([high >> 2 * i & 3 for i in range(4)], -2)
        codes = codes | fields.flatten(-3).int() << 4
    return codes


def _scales(planes: Planes) -> tuple[Tensor, Tensor | None]:
    """Scale and minimum of each half block, broadcasting against (rows, blocks, 2, 16)."""
    kind, scales = planes.format.scales, planes.scales
    if kind == "d":
        return scales.float()[..., None, None], None
    if kind == "dm":
        pair = scales.unsqueeze(-1).view(torch.float16).float()
        return pair[..., :1, None], pair[..., 1:, None]
    if kind == "e8":  # 2 ** (e - 128); exponents 0 and 1 make subnormal floats
        power = scales.int()
        bits = torch.where(power < 2, 0x00200000 << power.clamp(max=1), (power - 1) << 23)
        return bits.int().view(torch.float32)[..., None, None], None
    supers = planes.supers.repeat_interleave(SUPER, -1)
    if kind == "ks":
        return (supers.float() * scales.float())[..., None, None], None
    if kind == "k":
        pair = supers.unsqueeze(-1).view(torch.float16).float()
        pair = pair * scales.unsqueeze(-1).view(torch.uint8).float()
        return pair[..., :1, None], -pair[..., 1:, None]
    halves = scales.unsqueeze(-1).view(torch.int8).float()
    return (supers.float()[..., None] * halves)[..., None], None
