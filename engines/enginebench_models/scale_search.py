"""Searches for the scale of a group of values, as ggml's k-quants define them.

All take groups as columns, (length, groups), so that sums over a group run along the first axis:
numpy then adds row after row, which is the order of the reference, and the results are the same
to the last bit. The rules are those of the format's reference quantizers (ggml, `ggml-quants.c`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enginebench_models.block_fields import Floats

__all__ = [
    "AffineSearch",
    "extremes",
    "fit_affine",
    "fit_positive",
    "fit_signed",
    "fit_signed_stepwise",
    "ratio",
    "weigh",
]

Levels = NDArray[np.float32]  # whole numbers
Mask = NDArray[np.bool_]

_NOTHING = np.float32(1e-15)  # groups of smaller values are zero


def ratio(numerator: Floats | np.float32, denominator: Floats) -> Floats:
    """The quotient; 0 where the denominator is."""
    zeros = np.zeros(np.broadcast_shapes(np.shape(numerator), denominator.shape), np.float32)
    return np.divide(numerator, denominator, out=zeros, where=denominator != 0)


def _sum(values: Floats) -> Floats:
    total: Floats = np.add.reduce(values, axis=0)
    return total


def _take(where: Mask, new: Floats, old: Floats) -> None:
    np.copyto(old, new, where=where)


def weigh(blocks: Floats, importance: Floats, mean: Floats) -> Floats:
    """How much the error of each value of (n, length) counts: its column's importance, and more
    for values that are large beside the `mean` square (n, 1)."""
    weights: Floats = importance * np.sqrt(mean + blocks * blocks)
    return weights


# ---------------------------------------------------------------- scale and minimum


@dataclass(frozen=True, slots=True)
class AffineSearch:
    """Levels are 0 to `top`; `tries` + 1 scales are tried, for a range that covers `start` more
    levels than there are, then `step` more each time. Errors count squared, or as they are."""

    top: int
    start: float
    step: float
    tries: int
    squared: bool = True


def _affine_levels(x: Floats, inverse: Floats, low: Floats, top: int) -> Levels:
    """The nearest of the levels 0 to `top`."""
    levels = np.subtract(x, low)
    levels *= inverse
    np.rint(levels, out=levels)
    return np.clip(levels, 0, top, out=levels)


def fit_affine(x: Floats, weights: Floats, search: AffineSearch) -> tuple[Floats, Floats, Levels]:
    """Scale, offset (zero or more, to be subtracted) and levels of each group."""
    low, high = np.minimum(x.min(axis=0), 0), x.max(axis=0)
    top = np.float32(search.top)
    total, total_x = _sum(weights), _sum(weights * x)
    inverse = ratio(top, high - low)
    scale = ratio(np.float32(1), inverse)
    best_inverse, best_base = inverse, low.copy()
    levels = _affine_levels(x, inverse, low, search.top)
    best_error = _error(x, weights, scale, low, levels, search)
    for attempt in range(search.tries + 1):
        widened = np.float32(search.start) + np.float32(search.step) * np.float32(attempt) + top
        inverse = ratio(widened, high - low)
        levels = _affine_levels(x, inverse, low, search.top)
        found = _solve(x, weights, levels, total, total_x)
        error = _error(x, weights, *found[:2], levels, search)
        better = found[2] & (error < best_error)
        _take(better, inverse, best_inverse)
        _take(better, low, best_base)
        _take(better, error, best_error)
        _take(better, found[0], scale)
        _take(better, found[1], low)
    return scale, -low, _affine_levels(x, best_inverse, best_base, search.top)


def _solve(
    x: Floats, weights: Floats, levels: Levels, total: Floats, total_x: Floats
) -> tuple[Floats, Floats, Mask]:
    """Weighted least squares for scale and minimum given the levels, and where that is possible."""
    weighted = weights * levels
    sum_l, sum_xl = _sum(weighted), _sum(weighted * x)
    weighted *= levels
    sum_ll = _sum(weighted)
    determinant = total * sum_ll - sum_l * sum_l
    solvable = determinant > 0
    scale = ratio(total * sum_xl - total_x * sum_l, determinant)
    low = ratio(sum_ll * total_x - sum_l * sum_xl, determinant)
    above = low > 0
    _take(above, ratio(sum_xl, sum_ll), scale)
    low[above] = 0
    return scale, low, solvable


def _error(
    x: Floats,
    weights: Floats,
    scale: Floats,
    low: Floats,
    levels: Levels,
    search: AffineSearch,
) -> Floats:
    off = scale * levels
    off += low
    off -= x
    if search.squared:
        off *= off
    else:
        np.abs(off, out=off)
    off *= weights
    return _sum(off)


# ---------------------------------------------------------------- scale only


def extremes(x: Floats) -> Floats:
    """The value of largest magnitude of each group, the first of equals; 0 if next to nothing."""
    at = np.abs(x).argmax(axis=0)
    extreme: Floats = np.take_along_axis(x, at[None], axis=0)[0]
    extreme[np.abs(extreme) < _NOTHING] = 0
    return extreme


def _signed_levels(x: Floats, inverse: Floats, half: int) -> Levels:
    """The nearest of the levels -half to half - 1."""
    levels = x * inverse
    np.rint(levels, out=levels)
    return np.clip(levels, -half, half - 1, out=levels)


def fit_signed(x: Floats, weights: Floats, half: int) -> tuple[Floats, Levels]:
    """Scale and levels: 19 scales around the one that spans the range, each with its best fit.

    A group of zeros has scale 0 and the lowest level throughout, here and below.
    """
    extreme = extremes(x)
    best_inverse = ratio(np.float32(-half), extreme)
    sum_xl, sum_ll = _correlations(x, weights, _signed_levels(x, best_inverse, half))
    scale = ratio(sum_xl, sum_ll)
    best = scale * sum_xl
    for attempt in (*range(-9, 0), *range(1, 10)):
        inverse = ratio(-(np.float32(half) + np.float32(0.1) * np.float32(attempt)), extreme)
        sum_xl, sum_ll = _correlations(x, weights, _signed_levels(x, inverse, half))
        better = (sum_ll > 0) & (sum_xl * sum_xl > best * sum_ll) & (extreme != 0)
        fitted = ratio(sum_xl, sum_ll)
        _take(better, inverse, best_inverse)
        _take(better, fitted, scale)
        _take(better, fitted * sum_xl, best)
    levels = _signed_levels(x, best_inverse, half)
    levels[:, extreme == 0] = -half
    return scale, levels


def _correlations(x: Floats, weights: Floats, levels: Levels) -> tuple[Floats, Floats]:
    """Of values and levels, and of levels with themselves."""
    products = weights * x
    products *= levels
    squares = weights * levels
    squares *= levels
    return _sum(products), _sum(squares)


def fit_signed_stepwise(x: Floats, half: int) -> tuple[Floats, Levels]:
    """Scale and levels: up to five rounds that move one value's level at a time.

    Weights are the squared values.
    """
    extreme = extremes(x)
    weights = x * x
    levels = _signed_levels(x, ratio(np.float32(-half), extreme), half)
    sum_xl, sum_ll = _correlations(x, weights, levels)
    for _ in range(5):
        moved = [
            _move(x[row], weights[row], levels[row], sum_xl, sum_ll, half) for row in range(len(x))
        ]
        if not any(moved):
            break
    scale = ratio(sum_xl, sum_ll)
    scale[extreme == 0] = 0
    levels[:, extreme == 0] = -half
    return scale, levels


def _move(
    x: Floats, weights: Floats, levels: Levels, sum_xl: Floats, sum_ll: Floats, half: int
) -> bool:
    """Give one value of every group the level that suits the others, if that fits better.

    `levels` and the sums change in place.
    """
    rest_xl, rest_ll = sum_xl - weights * x * levels, sum_ll - weights * levels * levels
    possible = rest_xl > 0
    wanted = np.divide(x * rest_ll, rest_xl, out=np.zeros_like(x), where=possible)
    np.clip(np.rint(wanted, out=wanted), -half, half - 1, out=wanted)
    rest_xl += weights * x * wanted
    rest_ll += weights * wanted * wanted
    fits = rest_xl * rest_xl * sum_ll > sum_xl * sum_xl * rest_ll
    better = possible & (wanted != levels) & (rest_ll > 0) & fits
    _take(better, wanted, levels)
    _take(better, rest_xl, sum_xl)
    _take(better, rest_ll, sum_ll)
    return bool(better.any())


def fit_positive(x: Floats, weights: Floats, top: int) -> tuple[Floats, Levels]:
    """Scale and levels 0 to `top` of groups (length, n) of values that are zero or more.

    Nine scales around the one that spans the range, then rounds that move one level at a time.
    """
    largest = np.maximum(x.max(axis=0), 0)
    best_inverse = ratio(np.float32(top), largest)
    scale = ratio(np.float32(1), best_inverse)
    best = _squared_error(x, weights, scale, np.rint(best_inverse * x))
    for attempt in (*range(-4, 0), *range(1, 5)):
        inverse = ratio(np.float32(0.1) * np.float32(attempt) + np.float32(top), largest)
        levels = np.minimum(np.rint(inverse * x), top)
        error = _squared_error(x, weights, ratio(np.float32(1), inverse), levels)
        better = error < best
        _take(better, inverse, best_inverse)
        _take(better, error, best)
    levels = np.minimum(np.rint(best_inverse * x), top)
    sum_xl, sum_ll = _correlations(x, weights, levels)
    for _ in range(5):
        rows = range(len(x))
        moved = [_raise(x[r], weights[r], levels[r], sum_xl, sum_ll, top) for r in rows]
        if not any(moved):
            break
    return ratio(sum_xl, sum_ll), levels


def _squared_error(x: Floats, weights: Floats, scale: Floats, levels: Levels) -> Floats:
    difference = x - scale * levels
    return _sum(weights * difference * difference)


def _raise(
    x: Floats, weights: Floats, levels: Levels, sum_xl: Floats, sum_ll: Floats, top: int
) -> bool:
    """Move one value's level in every group to where the others' best scale puts it, if that helps;
    whether any moved."""
    rest_xl, rest_ll = sum_xl - weights * x * levels, sum_ll - weights * levels * levels
    usable = (rest_xl > 0) & (rest_ll > 0)
    wanted = np.minimum(np.rint(ratio(x * rest_ll, rest_xl)), top)
    rest_xl += weights * x * wanted
    rest_ll += weights * wanted * wanted
    better = usable & (wanted != levels)
    better &= rest_xl * rest_xl * sum_ll > sum_xl * sum_xl * rest_ll
    for new, old in ((wanted, levels), (rest_xl, sum_xl), (rest_ll, sum_ll)):
        _take(better, new, old)
    return bool(better.any())
