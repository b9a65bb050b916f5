"""Quantizers of IQ4_NL and IQ4_XS: 4-bit indices into a fixed table of 16 uneven levels.

Byte for byte what ggml's reference quantizers give without an importance matrix: 15 scales are
tried for each group of 32, then IQ4_XS rounds the eight scales of a super-block to 6 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enginebench_models.block_fields import IQ4_LEVELS, Bytes, Encoder, Floats, as_bytes, half, pack
from enginebench_models.ggml_types import GGMLType
from enginebench_models.scale_search import extremes, ratio

__all__ = ["IQ4_ENCODERS"]

_TRIES = 7  # on either side
# The nearest level by twice the value, rounded down: boundaries are whole halves.
_HALF_STEPS = 2 * 127
_BOUNDARIES = IQ4_LEVELS[1:] + IQ4_LEVELS[:-1]  # twice the middle
_NEAREST = np.searchsorted(
    _BOUNDARIES, np.arange(-_HALF_STEPS, _HALF_STEPS + 1, dtype=np.float32), side="right"
).astype(np.uint8)


def _nearest(x: Floats) -> Bytes:
    """Index of the nearest of the 16 levels, the upper one in the middle."""
    steps = np.floor(x + x).clip(-_HALF_STEPS, _HALF_STEPS)
    indices: Bytes = _NEAREST[steps.astype(np.int16) + _HALF_STEPS]
    return indices


def _correlations(x: Floats, weights: Floats, inverse: Floats) -> tuple[Floats, Floats]:
    levels = IQ4_LEVELS[_nearest(inverse * x)]
    weighted = weights * levels
    return np.add.reduce(weighted * x, axis=0), np.add.reduce(weighted * levels, axis=0)


def _scales(x: Floats) -> Floats:
    """The best scale of each column of x (32, groups)."""
    extreme, weights = extremes(x), x * x
    inverse = ratio(np.float32(1), -extreme / IQ4_LEVELS[0])
    sum_xl, sum_ll = _correlations(x, weights, inverse)
    scale = ratio(sum_xl, sum_ll)
    best = scale * sum_xl
    for attempt in range(-_TRIES, _TRIES + 1):
        inverse = ratio(np.float32(attempt) + IQ4_LEVELS[0], extreme)
        sum_xl, sum_ll = _correlations(x, weights, inverse)
        better = (sum_ll > 0) & (sum_xl * sum_xl > best * sum_ll)
        np.copyto(scale, ratio(sum_xl, sum_ll), where=better)
        np.copyto(best, scale * sum_xl, where=better)
    scale[extreme == 0] = 0
    return scale


def _indices(x: Floats, scales: Floats) -> Bytes:
    """(32, groups) values under (groups,) scales -> (groups, 16) bytes of nibbles."""
    return pack(_nearest(ratio(np.float32(1), scales) * x).T, 4, 16)


def _iq4_nl(blocks: Floats) -> Bytes:
    x = np.ascontiguousarray(blocks.T)
    scales = _scales(x)
    return np.hstack([as_bytes(half(scales)), _indices(x, scales)])


def _iq4_xs(blocks: Floats) -> Bytes:
    x = np.ascontiguousarray(blocks.reshape(-1, 32).T)
    scales = _scales(x).reshape(-1, 8)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)[:, 0]
    d = -largest / np.float32(32)
    whole = np.rint(ratio(np.float32(1), d)[:, None] * scales).clip(-32, 31)
    indices = _indices(x, (d[:, None] * whole).reshape(-1)).reshape(-1, 128)
    stored = (whole + 32).astype(np.uint8)
    high = _pairs_in_word(stored >> np.uint8(4))
    low = pack(stored & np.uint8(15), 4, 1)
    return np.hstack([as_bytes(half(d)), as_bytes(high), low, indices])


def _pairs_in_word(pairs: Bytes) -> NDArray[np.uint16]:
    shifted = pairs.astype("<u2") << np.arange(0, 16, 2, dtype=np.uint16)
    word: NDArray[np.uint16] = np.bitwise_or.reduce(shifted, axis=1)
    return word


IQ4_ENCODERS: dict[GGMLType, Encoder] = {
    GGMLType.IQ4_NL: _iq4_nl,
    GGMLType.IQ4_XS: _iq4_xs,
}
