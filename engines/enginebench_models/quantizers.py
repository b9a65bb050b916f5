"""Quantizers in plain numpy, byte for byte what ggml's reference quantizers give.

Those of the float types and of the legacy types, which round once, stand here; `k_quantizers` and
`iq4_quantizers` search for good scales. numpy lets other threads run meanwhile: quantize parts of a
tensor in several.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models.block_fields import Bytes, Encoder, Floats
from enginebench_models.ggml_types import GGMLType
from enginebench_models.iq4_quantizers import IQ4_ENCODERS
from enginebench_models.k_quantizers import K_ENCODERS, K_WEIGHTED
from enginebench_models.scale_search import AffineSearch, fit_affine, fit_signed, weigh

__all__ = ["QUANTIZABLE", "WEIGHTED", "quantize"]

_CHUNK_VALUES = 1 << 15  # the searches go over the values many times: they should stay in the cache


def quantize(
    values: NDArray[np.floating], type: GGMLType, importance: Floats | None = None
) -> Bytes:
    """Encode (..., columns) as (rows, bytes per row); ValueError if columns split a block.

    `importance` (columns,) says how much errors of each column count; for types in `WEIGHTED`.
    """
    if type not in _ENCODERS:
        known = ", ".join(t.name for t in QUANTIZABLE)
        raise ModelError(f"cannot quantize to {type.name} (known: {known})")
    columns = values.shape[-1]
    row_bytes = type.row_bytes(columns)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, type.block_size)
    encoded = np.empty((len(blocks), type.block_bytes), np.uint8)
    step = _CHUNK_VALUES // type.block_size
    encode = _plain(blocks, type) if importance is None else _weighted(blocks, type, importance)
    with np.errstate(over="ignore", invalid="ignore"):  # scales that no half float can hold
        for start in range(0, len(blocks), step):
            encoded[start : start + step] = encode(slice(start, start + step))
    return encoded.reshape(-1, row_bytes)


def _plain(blocks: Floats, type: GGMLType) -> Callable[[slice], Bytes]:
    """Encodes some of the blocks."""

    def encode(part: slice) -> Bytes:
        chunk = blocks[part]
        return _ENCODERS[type](chunk).reshape(len(chunk), -1)

    return encode


def _weighted(blocks: Floats, type: GGMLType, importance: Floats) -> Callable[[slice], Bytes]:
    """Encodes some of the blocks, which are those of whole rows."""
    by_block = importance.reshape(-1, type.block_size)
    per_row = len(by_block)
    sums = np.add.accumulate(np.square(blocks).reshape(-1, importance.size), axis=1)
    count = np.float32(importance.size)
    squares: Floats = (sums[:, -1] / count).astype(np.float32)  # summed in the reference's order

    def encode(part: slice) -> Bytes:
        chunk = blocks[part]
        index = np.arange(part.start, part.start + len(chunk))
        own = by_block[index % per_row]
        if type in K_WEIGHTED:
            return K_WEIGHTED[type](chunk, own)
        return _WEIGHTED_LEGACY[type](chunk, weigh(chunk, own, squares[index // per_row, None]))

    return encode


def _inverse(scale: Floats) -> Floats:
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def _half(scale: Floats) -> Bytes:
    """(n, 1) floats -> (n, 2) bytes of half precision."""
    return scale.astype("<f2").view(np.uint8)


def _nibbles(q: Bytes) -> Bytes:
    """Low nibbles of (n, 32): value i shares a byte with value i + 16."""
    return q[:, :16] & np.uint8(15) | q[:, 16:] << np.uint8(4)


def _fifth_bits(q: Bytes) -> Bytes:
    return np.packbits(q >> np.uint8(4), axis=1, bitorder="little")


def _signed_steps(blocks: Floats, half_range: int) -> tuple[Floats, Bytes]:
    """Scale so that the value of largest magnitude becomes -half_range; steps from there."""
    at = np.abs(blocks).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(blocks, at, axis=1) / np.float32(-half_range)
    steps = np.trunc(blocks * _inverse(scale) + np.float32(half_range + 0.5))
    return scale, steps.clip(0, 2 * half_range - 1).astype(np.uint8)


def _affine_steps(blocks: Floats, top: int) -> tuple[Floats, Floats, Bytes]:
    """Scale and minimum so that the block spans steps 0 to `top`."""
    low = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - low) / np.float32(top)
    steps = np.trunc((blocks - low) * _inverse(scale) + np.float32(0.5))
    return scale, low, steps.clip(0, top).astype(np.uint8)


def _f32(blocks: Floats) -> Bytes:
    return blocks.astype("<f4").view(np.uint8)


def _bf16(blocks: Floats) -> Bytes:
    """Round to nearest even; NaN stays NaN."""
    bits = blocks.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(64)
    return np.where(np.isnan(blocks), quiet, rounded).astype("<u2").view(np.uint8)


def _q4_0(blocks: Floats) -> Bytes:
    scale, q = _signed_steps(blocks, 8)
    return np.hstack([_half(scale), _nibbles(q)])


def _q4_1(blocks: Floats) -> Bytes:
    scale, low, q = _affine_steps(blocks, 15)
    return np.hstack([_half(scale), _half(low), _nibbles(q)])


def _q5_0(blocks: Floats) -> Bytes:
    scale, q = _signed_steps(blocks, 16)
    return np.hstack([_half(scale), _fifth_bits(q), _nibbles(q)])


def _q5_1(blocks: Floats) -> Bytes:
    scale, low, q = _affine_steps(blocks, 31)
    return np.hstack([_half(scale), _half(low), _fifth_bits(q), _nibbles(q)])


def _q8_0(blocks: Floats) -> Bytes:
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    exact = blocks * _inverse(scale)
    magnitude = np.abs(exact)
    whole = np.floor(magnitude)
    away_from_zero = np.sign(exact) * (whole + np.floor(2 * (magnitude - whole)))
    return np.hstack([_half(scale), away_from_zero.astype(np.int8).view(np.uint8)])


def _weighted_signed(blocks: Floats, weights: Floats, half_range: int) -> tuple[Floats, Bytes]:
    """As `_signed_steps`, with the scale that errs least."""
    x, w = np.ascontiguousarray(blocks.T), np.ascontiguousarray(weights.T)
    scale, levels = fit_signed(x, w, half_range)
    return scale[:, None], (levels.T + half_range).astype(np.uint8)


def _weighted_affine(blocks: Floats, weights: Floats, top: int) -> tuple[Floats, Floats, Bytes]:
    """As `_affine_steps`, with the scale and minimum that err least."""
    x, w = np.ascontiguousarray(blocks.T), np.ascontiguousarray(weights.T)
    search = AffineSearch(top=top, start=-0.9, step=0.05, tries=36)
    scale, offset, levels = fit_affine(x, w, search)
    return scale[:, None], -offset[:, None], levels.T.astype(np.uint8)


def _weighted_q4_0(blocks: Floats, weights: Floats) -> Bytes:
    scale, q = _weighted_signed(blocks, weights, 8)
    return np.hstack([_half(scale), _nibbles(q)])


def _weighted_q5_0(blocks: Floats, weights: Floats) -> Bytes:
    scale, q = _weighted_signed(blocks, weights, 16)
    return np.hstack([_half(scale), _fifth_bits(q), _nibbles(q)])


def _weighted_q4_1(blocks: Floats, weights: Floats) -> Bytes:
    scale, low, q = _weighted_affine(blocks, weights, 15)
    return np.hstack([_half(scale), _half(low), _nibbles(q)])


def _weighted_q5_1(blocks: Floats, weights: Floats) -> Bytes:
    scale, low, q = _weighted_affine(blocks, weights, 31)
    return np.hstack([_half(scale), _half(low), _fifth_bits(q), _nibbles(q)])


_ENCODERS: dict[GGMLType, Encoder] = {
    GGMLType.F32: _f32,
    GGMLType.F16: _half,
    GGMLType.BF16: _bf16,
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q8_0: _q8_0,
    **K_ENCODERS,
    **IQ4_ENCODERS,
}
QUANTIZABLE = tuple(_ENCODERS)
_WEIGHTED_LEGACY: dict[GGMLType, Callable[[Floats, Floats], Bytes]] = {
    GGMLType.Q4_0: _weighted_q4_0,
    GGMLType.Q4_1: _weighted_q4_1,
    GGMLType.Q5_0: _weighted_q5_0,
    GGMLType.Q5_1: _weighted_q5_1,
}
WEIGHTED = (*_WEIGHTED_LEGACY, *K_WEIGHTED)
