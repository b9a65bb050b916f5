"""Quantizers of the k-quants, Q2_K to Q6_K: super-blocks of 256 values, in plain numpy.

Byte for byte what ggml's reference quantizers give, without an importance matrix and with one
(`importance`, of each value of the blocks). The search for scales is in `scale_search`; here scales
are rounded to their few bits and blocks are packed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enginebench_models.block_fields import Bytes, Encoder, Floats, as_bytes, half, pack
from enginebench_models.ggml_types import GGMLType
from enginebench_models.scale_search import (
    AffineSearch,
    fit_affine,
    fit_positive,
    fit_signed,
    fit_signed_stepwise,
    ratio,
    weigh,
)

__all__ = ["K_ENCODERS", "K_WEIGHTED"]

_BLOCK = 256
_NOTHING = np.float32(1e-15)


# ---------------------------------------------------------------- pieces


def _columns(blocks: Floats, length: int) -> Floats:
    """(n, 256) -> (length, n * 256 / length): each group a column."""
    return np.ascontiguousarray(blocks.reshape(-1, length).T)


def _rows(levels: Floats, groups: int) -> Bytes:
    """The way back, as bytes: (length, n * groups) -> (n, length * groups)."""
    return levels.T.astype(np.uint8).reshape(-1, groups * len(levels))


def _relevel(
    blocks: Floats,
    scales: Floats,
    levels: Floats,
    low: int,
    high: int,
    offsets: Floats | None = None,
) -> Floats:
    """Levels for the rounded scales (n, groups); those of the search where a scale became zero."""
    x = _columns(blocks, len(levels))
    flat = scales.reshape(-1)
    shifted = x if offsets is None else x + offsets.reshape(-1)
    fresh = np.divide(shifted, flat, out=np.zeros_like(x), where=flat != 0)
    np.clip(np.rint(fresh, out=fresh), low, high, out=fresh)
    np.copyto(levels, fresh, where=flat != 0)
    return levels


def _weights(blocks: Floats, importance: Floats, times: int = 2) -> Floats:
    """Values count the more the larger they are beside the mean square of their block."""
    sums = np.add.accumulate(blocks * blocks, axis=1)[:, -1:]  # in the reference's order
    mean: Floats = np.float32(times) * sums / np.float32(_BLOCK)
    return weigh(blocks, importance, mean)


def _weighted_search(top: int) -> AffineSearch:
    """Where errors are weighed by importance, more scales are tried."""
    return AffineSearch(top=top, start=-0.9, step=0.05, tries=36)


# ---------------------------------------------------------------- scales and minima


def _affine_fields(
    blocks: Floats,
    length: int,
    search: AffineSearch,
    steps: int,
    weights: Floats,
    x: Floats,
    *,
    is_weighted: bool,
) -> tuple[NDArray[np.float16], NDArray[np.float16], Bytes, Bytes, Bytes]:
    """d and dmin (n,), scales and minima (n, groups) as whole numbers up to `steps`, levels."""
    scale, offset, levels = fit_affine(x, weights, search)
    groups = _BLOCK // length
    by_group = weights.sum(axis=0).reshape(-1, groups) if is_weighted else None
    d, scales = _rounded(scale.reshape(-1, groups), steps, by_group)
    dmin, minima = _rounded(offset.reshape(-1, groups), steps, by_group)
    true_scales = d.astype(np.float32)[:, None] * scales
    true_minima = dmin.astype(np.float32)[:, None] * minima
    levels = _relevel(blocks, true_scales, levels, 0, search.top, true_minima)
    return d, dmin, scales, minima, _rows(levels, groups)


def _rounded(
    values: Floats, steps: int, weights: Floats | None
) -> tuple[NDArray[np.float16], Bytes]:
    """Scales that are zero or more as multiples of a half-precision number."""
    if weights is not None:
        x, w = np.ascontiguousarray(values.T), np.ascontiguousarray(weights.T)
        d, levels = fit_positive(x, w, steps)
        return half(d), np.ascontiguousarray(levels.T).astype(np.uint8)
    largest = np.maximum(values.max(axis=1), 0)
    inverse = ratio(np.float32(steps), largest)
    whole = np.rint(inverse[:, None] * values).clip(0, steps).astype(np.uint8)
    return half(largest / np.float32(steps)), whole


def _q2_k(blocks: Floats, importance: Floats | None = None) -> Bytes:
    x = _columns(blocks, 16)
    weights, search = np.abs(x), AffineSearch(top=3, start=-0.5, step=0.1, tries=15, squared=False)
    if importance is not None:
        weights, search = _columns(_weights(blocks, importance, 1), 16), _weighted_search(3)
    d, dmin, scales, minima, levels = _affine_fields(
        blocks, 16, search, 15, weights, x, is_weighted=importance is not None
    )
    packed = scales | minima << np.uint8(4)
    return np.hstack([packed, pack(levels, 2, 32), as_bytes(d), as_bytes(dmin)])


def _affine_k(
    blocks: Floats, search: AffineSearch, importance: Floats | None
) -> tuple[Bytes, Bytes]:
    """The head (d, dmin, scales) and the levels of Q4_K and Q5_K."""
    x = _columns(blocks, 32)
    if importance is None:
        weights = np.sqrt(np.add.reduce(x * x, axis=0) / np.float32(32)) + np.abs(x)
    else:
        weights, search = _columns(_weights(blocks, importance), 32), _weighted_search(search.top)
    is_weighted = importance is not None
    fields = _affine_fields(blocks, 32, search, 63, weights, x, is_weighted=is_weighted)
    d, dmin, scales, minima, levels = fields
    return np.hstack([as_bytes(d), as_bytes(dmin), _pack_six_bits(scales, minima)]), levels


def _pack_six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Two of (n, 8), 6 bits each, in 12 bytes: the upper four's top bits ride on the lower four."""
    top = np.uint8(0xC0)
    first = scales[:, :4] | scales[:, 4:] << np.uint8(2) & top
    second = minima[:, :4] | minima[:, 4:] << np.uint8(2) & top
    nibbles = scales[:, 4:] & np.uint8(15) | minima[:, 4:] << np.uint8(4)
    return np.hstack([first, second, nibbles])


def _q4_k(blocks: Floats, importance: Floats | None = None) -> Bytes:
    search = AffineSearch(top=15, start=-1, step=0.1, tries=20)
    head, levels = _affine_k(blocks, search, importance)
    return np.hstack([head, pack(levels, 4, 32)])


def _q5_k(blocks: Floats, importance: Floats | None = None) -> Bytes:
    search = AffineSearch(top=31, start=-0.5, step=0.1, tries=15)
    head, levels = _affine_k(blocks, search, importance)
    fifth, low = levels >> np.uint8(4), levels & np.uint8(15)
    return np.hstack([head, pack(fifth, 1, 32), pack(low, 4, 32)])


# ---------------------------------------------------------------- scales only


def _signed_scales(scales: Floats, top: int) -> tuple[Floats, Floats]:
    """d (n,) and whole multiples (n, groups); the largest scale becomes -top."""
    at = np.abs(scales).argmax(axis=1)
    inverse = ratio(np.float32(-top), scales[np.arange(len(scales)), at])
    whole = np.rint(inverse[:, None] * scales).clip(-top, top - 1)
    return ratio(np.float32(1), inverse), whole


def _fitted_scales(scale: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """The same for 16 groups of a block, with the d that errs least where groups weigh."""
    x, w = (np.ascontiguousarray(part.reshape(-1, 16).T) for part in (scale, weights.sum(axis=0)))
    d, whole = fit_signed(x, w, 32)
    return d, np.ascontiguousarray(whole.T)


def _q3_k(blocks: Floats, importance: Floats | None = None) -> Bytes:
    if importance is None:
        scale, levels = fit_signed_stepwise(_columns(blocks, 16), 4)
        d, scales = _signed_scales(scale.reshape(-1, 16), 32)
    else:
        weights = _columns(_weights(blocks, importance), 16)
        scale, levels = fit_signed(_columns(blocks, 16), weights, 4)
        d, scales = _fitted_scales(scale, weights)
    true_scales = half(d).astype(np.float32)[:, None] * scales
    stored = _rows(_relevel(blocks, true_scales, levels, -4, 3) + 4, 16)
    high, low = stored >> np.uint8(2), stored & np.uint8(3)
    whole = (scales + 32).astype(np.uint8)
    whole[d == 0] = 0
    packed = [pack(whole & np.uint8(15), 4, 8), pack(whole >> np.uint8(4), 2, 4)]
    return np.hstack([pack(high, 1, 32), pack(low, 2, 32), *packed, as_bytes(half(d))])


def _q6_k(blocks: Floats, importance: Floats | None = None) -> Bytes:
    x = _columns(blocks, 16)
    weights = x * x if importance is None else _columns(importance, 16)
    scale, levels = fit_signed(x, weights, 32)
    d, scales = _signed_scales(scale.reshape(-1, 16), 128)
    true_scales = half(d).astype(np.float32)[:, None] * scales
    stored = _rows(_relevel(blocks, true_scales, levels, -32, 31) + 32, 16)
    high, low = stored >> np.uint8(4), stored & np.uint8(15)
    parts = [pack(low, 4, 64), pack(high, 2, 32), scales.astype(np.int8).view(np.uint8)]
    packed = np.hstack([*parts, as_bytes(half(d))])
    packed[np.abs(scale).reshape(-1, 16).max(axis=1) < _NOTHING] = 0
    return packed


K_WEIGHTED: dict[GGMLType, Callable[[Floats, Floats], Bytes]] = {
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
}
K_ENCODERS: dict[GGMLType, Encoder] = {
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
}
