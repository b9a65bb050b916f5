"""Keys as `KVCache.read_rows` gives them: turned to other positions.

A row is the keys of one position in one kv head: halves, or for a quantized cache the factors of
its blocks and then their codes, in the order of Q8_0 and Q4_0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enginebench_models import GGMLType, dequantize, quantize
from enginebench_quant.kernels.cache_layout import BLOCK

__all__ = ["turned"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
BLOCK_TYPES = {8: GGMLType.Q8_0, 4: GGMLType.Q4_0}
FACTOR_BYTES = 2


def turned(rows: Bytes, bits: int, angles: NDArray[np.float64]) -> Bytes:
    """Keys (..., bytes of a row) rotated by `angles` (head_dim / 2,), and rounded again."""
    keys = _floats(rows, bits)
    half = angles.size
    first, second = keys[..., :half], keys[..., half:]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    rotated = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return _rows(rotated, bits)


def _floats(rows: Bytes, bits: int) -> Floats:
    if bits == 16:
        return np.ascontiguousarray(rows).view(np.float16).astype(np.float32)
    n_blocks = rows.shape[-1] // (FACTOR_BYTES + BLOCK * bits // 8)
    factors, codes = np.split(rows, [n_blocks * FACTOR_BYTES], -1)
    blocks = np.concatenate([_by_block(factors, n_blocks), _by_block(codes, n_blocks)], -1)
    return dequantize(blocks, BLOCK_TYPES[bits], (*rows.shape[:-1], n_blocks * BLOCK))


def _rows(keys: Floats, bits: int) -> Bytes:
    if bits == 16:
        return keys.astype(np.float16).view(np.uint8)
    n_blocks = keys.shape[-1] // BLOCK
    blocks = quantize(keys, BLOCK_TYPES[bits]).reshape(*keys.shape[:-1], n_blocks, -1)
    factors, codes = np.split(blocks, [FACTOR_BYTES], -1)
    parts = [part.reshape(*keys.shape[:-1], -1) for part in (factors, codes)]
    return np.concatenate(parts, -1)


def _by_block(fields: Bytes, n_blocks: int) -> Bytes:
    return fields.reshape(*fields.shape[:-1], n_blocks, -1)
