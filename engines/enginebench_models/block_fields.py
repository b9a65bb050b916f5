"""Fields of quantized blocks: how scales, nibbles and bits are packed, for all layouts alike.

Everything takes n blocks at once and keeps them in the first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IQ4_LEVELS",
    "Blocks",
    "Bytes",
    "Decoder",
    "Encoder",
    "Floats",
    "as_bytes",
    "by_group",
    "half",
    "layout",
    "pack",
    "planes",
    "scale",
]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Blocks = NDArray[Any]  # records of a layout
Decoder = Callable[[Blocks], Floats]
Encoder = Callable[[Floats], Bytes]  # (n, block_size) -> (n, block_bytes)

IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


def layout(*fields: tuple[str, str] | tuple[str, str, int]) -> np.dtype[Any]:
    """The record of a block."""
    return np.dtype(list(fields))


def scale(field: Blocks) -> Floats:
    """Half-precision scales of n blocks as (n, 1)."""
    return field.astype(np.float32)[:, None]


def planes(packed: Bytes, bits: int, run: int) -> Bytes:
    """Unpack `bits`-wide fields: every `run` bytes give 8 // bits runs of `run` values, low first.

    (n, k * run) -> (n, k * 8 // bits * run)
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = packed.reshape(len(packed), -1, 1, run) >> shifts & np.uint8((1 << bits) - 1)
    return fields.reshape(len(packed), -1)


def by_group(scales: Floats, values: Floats) -> Floats:
    """Multiply each group of values by its scale: (n, g), (n, g * k) -> (n, g, k)."""
    return scales[..., None] * values.reshape(*scales.shape, -1)


def pack(fields: Bytes, bits: int, run: int) -> Bytes:
    """Undo `planes`: (n, k * 8 // bits * run) -> (n, k * run)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    shifted = fields.reshape(len(fields), -1, 8 // bits, run) << shifts
    packed: Bytes = np.bitwise_or.reduce(shifted, axis=2)
    return packed.reshape(len(fields), -1)


def half(values: Floats) -> NDArray[np.float16]:
    """Half precision; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype("<f2")


def as_bytes(field: NDArray[Any]) -> Bytes:
    """One number for each block as bytes: (n,) -> (n, itemsize)."""
    return np.ascontiguousarray(field).view(np.uint8).reshape(len(field), -1)
