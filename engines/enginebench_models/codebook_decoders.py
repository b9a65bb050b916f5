"""Dequantizers of ggml's smallest types: codebook vectors (IQ1 to IQ3) and ternary values (TQ).

A block of an i-quant is 256 values: indices into a codebook, a sign for each value, and a scale for
each 16 or 32 of them. Same conventions as `dequantizers`, which lists these with its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginebench_models.block_fields import (
    Blocks,
    Bytes,
    Decoder,
    Floats,
    by_group,
    layout,
    planes,
    scale,
)
from enginebench_models.codebooks import codebook
from enginebench_models.ggml_types import GGMLType

__all__ = ["CODEBOOK_DECODERS"]

_HALF, _QUARTER, _DELTA = np.float32(0.5), np.float32(0.25), np.float32(0.125)
_TOP_BITS = np.arange(0, 28, 7, dtype=np.uint32)  # where four 7-bit sign fields start


# ---------------------------------------------------------------- pieces


def _fields(words: NDArray[Any], starts: NDArray[Any], bits: int) -> NDArray[Any]:
    """A field of `bits` at each of `starts`: (n, k) -> (n, k * len(starts))."""
    mask = words.dtype.type((1 << bits) - 1)
    cut: NDArray[Any] = words[..., None] >> starts.astype(words.dtype) & mask
    return cut.reshape(len(words), -1)


def _signs(masks: Bytes) -> Floats:
    """A set bit means minus: (n, k) -> (n, k * 8)."""
    return np.float32(1) - 2 * planes(masks, 1, 1).astype(np.float32)


def _even_signs(fields: NDArray[Any]) -> Floats:
    """Seven signs are stored; the eighth makes the number of minuses even."""
    masks = fields.astype(np.uint8)
    odd = np.bitwise_count(masks) & np.uint8(1)
    return _signs(masks | odd << np.uint8(7))


def _vectors(name: str, indices: NDArray[Any]) -> Floats:
    """(n, k) indices -> (n, k * length) values."""
    values: Floats = codebook(name)[indices]
    return values.reshape(len(indices), -1)


def _with_high_bits(low: Bytes, high: NDArray[Any]) -> NDArray[np.uint16]:
    return low.astype(np.uint16) | high.astype(np.uint16) << np.uint16(8)


def _whole(groups: Floats) -> Floats:
    return groups.reshape(len(groups), -1)


# ---------------------------------------------------------------- two bits


def _iq2_xxs(b: Blocks) -> Floats:
    words = b["words"].reshape(len(b), 8, 2)  # four indices; four sign fields and a scale
    tail = words[..., 1]
    indices = np.ascontiguousarray(words[..., 0]).view(np.uint8)
    scales = scale(b["d"]) * (_HALF + (tail >> np.uint32(28)).astype(np.float32)) * _QUARTER
    values = by_group(scales, _vectors("iq2_xxs", indices))
    return _whole(values) * _even_signs(_fields(tail, _TOP_BITS, 7))


def _two_bit_scales(b: Blocks) -> Floats:
    return scale(b["d"]) * (_HALF + planes(b["scales"], 4, 1).astype(np.float32)) * _QUARTER


def _iq2_xs(b: Blocks) -> Floats:
    values = by_group(_two_bit_scales(b), _vectors("iq2_xs", b["qs"] & np.uint16(511)))
    return _whole(values) * _even_signs(b["qs"] >> np.uint16(9))


def _iq2_s(b: Blocks) -> Floats:
    indices = _with_high_bits(b["qs"], planes(b["qh"], 2, 1))
    values = by_group(_two_bit_scales(b), _vectors("iq2_s", indices))
    return _whole(values) * _signs(b["signs"])


# ---------------------------------------------------------------- three bits


def _iq3_xxs(b: Blocks) -> Floats:
    tail = b["tail"]  # four sign fields and a scale
    scales = scale(b["d"]) * (_HALF + (tail >> np.uint32(28)).astype(np.float32)) * _HALF
    values = by_group(scales, _vectors("iq3_xxs", b["qs"]))
    return _whole(values) * _even_signs(_fields(tail, _TOP_BITS, 7))


def _iq3_s(b: Blocks) -> Floats:
    scales = scale(b["d"]) * (1 + 2 * planes(b["scales"], 4, 1)).astype(np.float32)
    indices = _with_high_bits(b["qs"], planes(b["qh"], 1, 1))
    return _whole(by_group(scales, _vectors("iq3_s", indices))) * _signs(b["signs"])


# ---------------------------------------------------------------- one bit, and ternary


def _iq1_s(b: Blocks) -> Floats:
    high = b["qh"]  # (n, 8): four times 3 index bits, a scale, the direction of the shift
    scales = scale(b["d"]) * (2 * (high >> np.uint16(12) & np.uint16(7)) + 1).astype(np.float32)
    shifts = np.where(high & np.uint16(0x8000), -_DELTA, _DELTA)
    indices = _with_high_bits(b["qs"], _fields(high, np.arange(0, 12, 3), 3))
    values = _vectors("iq1", indices).reshape(len(b), 8, 32) + shifts[..., None]
    return _whole(by_group(scales, values))


def _iq1_m(b: Blocks) -> Floats:
    words = b["scales"]  # (n, 4): four 3-bit scales, and 4 bits of the block's own scale
    parts = words >> np.uint16(12) << np.arange(0, 16, 4, dtype=np.uint16)
    own = np.bitwise_or.reduce(parts, axis=1).astype(np.uint16).view(np.float16)
    scales = scale(own) * (2 * _fields(words, np.arange(0, 12, 3), 3) + 1).astype(np.float32)
    high = planes(b["qh"], 4, 1)  # 3 index bits, the direction of the shift
    shifts = np.where(high & np.uint8(8), -_DELTA, _DELTA)
    indices = _with_high_bits(b["qs"], high & np.uint8(7))
    values = _vectors("iq1", indices).reshape(len(b), 32, 8) + shifts[..., None]
    return _whole(by_group(scales, values))


def _trits(packed: Bytes, count: int) -> Bytes:
    """`count` digits of base 3 in each byte, first digits of all bytes first: 0, 1 or 2."""
    powers = np.array([1, 3, 9, 27, 81][:count], np.uint8)[:, None]
    shifted = packed[:, None] * powers  # wraps: the digit is now the highest
    digits = shifted.astype(np.uint16) * np.uint16(3) >> np.uint16(8)
    return digits.astype(np.uint8).reshape(len(packed), -1)


def _tq1_0(b: Blocks) -> Floats:
    runs = [_trits(b["qs"][:, :32], 5), _trits(b["qs"][:, 32:], 5), _trits(b["qh"], 4)]
    return scale(b["d"]) * (np.concatenate(runs, axis=1).astype(np.float32) - np.float32(1))


def _tq2_0(b: Blocks) -> Floats:
    return scale(b["d"]) * (planes(b["qs"], 2, 32).astype(np.float32) - np.float32(1))


_D = ("d", "<f2")
_QS32, _QS64, _SCALES8 = ("qs", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 8)
_QH8, _SIGNS32 = ("qh", "u1", 8), ("signs", "u1", 32)

CODEBOOK_DECODERS: dict[GGMLType, tuple[np.dtype[Any], Decoder]] = {
    GGMLType.IQ2_XXS: (layout(_D, ("words", "<u4", 16)), _iq2_xxs),
    GGMLType.IQ2_XS: (layout(_D, ("qs", "<u2", 32), _SCALES8), _iq2_xs),
    GGMLType.IQ2_S: (layout(_D, _QS32, _SIGNS32, _QH8, _SCALES8), _iq2_s),
    GGMLType.IQ3_XXS: (layout(_D, _QS64, ("tail", "<u4", 8)), _iq3_xxs),
    GGMLType.IQ3_S: (layout(_D, _QS64, _QH8, _SIGNS32, ("scales", "u1", 4)), _iq3_s),
    GGMLType.IQ1_S: (layout(_D, _QS32, ("qh", "<u2", 8)), _iq1_s),
    GGMLType.IQ1_M: (layout(_QS32, ("qh", "u1", 16), ("scales", "<u2", 4)), _iq1_m),
    GGMLType.TQ1_0: (layout(("qs", "u1", 48), ("qh", "u1", 4), _D), _tq1_0),
    GGMLType.TQ2_0: (layout(_QS64, _D), _tq2_0),
}
