"""One scale or minimum of a superblock as a byte, from any of the ways in which files store them.

A pair of nibbles stays one byte, the scale's.

The ways are told in `file_blocks.py`; kernels know theirs when they are compiled.
"""

from __future__ import annotations

from collections.abc import Callable

from numba.core import types
from numba.extending import overload

from enginebench_quant.kernels.words import peek_word

__all__ = ["block_minimum", "block_scale"]


def block_scale(scheme, address, index):
    """Scale `index` of the superblock whose scales lie at `address`."""
    raise NotImplementedError("compiled code only")


def block_minimum(scheme, address, index):
    """Minimum `index`."""
    raise NotImplementedError("compiled code only")


def _six_bit_scale(scheme, address, index):
    if index < 4:
        return peek_word(1, address + index) & 63
    upper = peek_word(1, address + index - 4) >> 6 << 4
    return peek_word(1, address + index + 4) & 15 | upper


def _six_bit_minimum(scheme, address, index):
    if index < 4:
        return peek_word(1, address + index + 4) & 63
    upper = peek_word(1, address + index) >> 6 << 4
    return peek_word(1, address + index + 4) >> 4 | upper


def _byte(scheme, address, index):
    return peek_word(1, address + index)


def _six_bit(scheme, address, index):
    nibble = peek_word(1, address + index % 8) >> index // 8 * 4 & 15
    pair = peek_word(1, address + 8 + index % 4) >> index // 4 * 2 & 3
    return (nibble | pair << 4) - 32


def _split_six_bit(scheme, address, index):
    nibble = peek_word(1, address + 2 + index // 2) >> index % 2 * 4 & 15
    pair = peek_word(2, address) >> 2 * index & 3
    return (nibble | pair << 4) - 32


def _none(scheme, address, index):
    return 0


_SCALES = {
    "six_bit_pairs": _six_bit_scale,
    "nibble_pairs": _byte,
    "int8": _byte,
    "six_bit": _six_bit,
    "split_six_bit": _split_six_bit,
}
_MINIMA = {"six_bit_pairs": _six_bit_minimum}


def _choose(found: dict[str, Callable[..., int]], scheme: types.Type) -> Callable[..., int] | None:
    if not isinstance(scheme, types.StringLiteral):
        return None
    return found.get(scheme.literal_value, _none)


@overload(block_scale, prefer_literal=True, inline="always")
def _overload_scale(scheme, address, index):
    return _choose(_SCALES, scheme)


@overload(block_minimum, prefer_literal=True, inline="always")
def _overload_minimum(scheme, address, index):
    return _choose(_MINIMA, scheme)
