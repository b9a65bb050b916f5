"""Fields of quantized blocks: how scales, nibbles and bits are unpacked, for all layouts alike.

Everything takes n blocks at once and keeps them in the first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "Bytes", "Decoder", "Floats", "by_group", "layout", "planes", "scale"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Blocks = NDArray[Any]  # records of a layout
Decoder = Callable[[Blocks], Floats]


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
