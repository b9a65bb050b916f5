"""The KV cache: keys and values of every layer, for one sequence, in f16, Q8_0 or Q4_0.

Its layout is that of `kernels/rope.py` and `kernels/cache_layout.py`. It is allocated for the whole
context at once, but memory is taken only as positions are written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models import ModelConfig
from enginebench_quant.cache_rows import turned
from enginebench_quant.kernels.cache_layout import BLOCK, KV_BITS, block_bytes
from enginebench_quant.memory import zeros

__all__ = ["KVCache"]

Bytes = NDArray[np.uint8]
Angles = NDArray[np.float64]
HALF_BYTES = 2


class KVCache:
    """Room for `context` positions, rounded up so that whole tiles may be read past the end."""

    def __init__(
        self, config: ModelConfig, context: int, *, lanes: int, tile: int, kv_type: str = "f16"
    ) -> None:
        self.bits = KV_BITS[kv_type]
        if self.bits != 16 and config.head_dim % BLOCK:
            raise ModelError(
                f"kv_type {kv_type} needs heads of a multiple of {BLOCK} elements; the model's "
                f"have {config.head_dim}: take kv_type f16"
            )
        self.capacity = -(-(context + tile) // lanes) * lanes
        self._heads, self._head_dim, self._lanes = config.n_kv_heads, config.head_dim, lanes
        rows = config.n_kv_heads * self.capacity
        value_bytes = self._head_bytes(-(-config.head_dim // lanes) * lanes)
        self._keys = [
            zeros(rows * self._head_bytes(config.head_dim)) for _ in range(config.n_layers)
        ]
        self._values = [zeros(rows * value_bytes) for _ in range(config.n_layers)]

    def keys(self, layer: int) -> int:
        """Address of a layer's keys."""
        return self._keys[layer].ctypes.data

    def values(self, layer: int) -> int:
        """Address of a layer's values."""
        return self._values[layer].ctypes.data

    @property
    def n_layers(self) -> int:
        return len(self._keys)

    @property
    def position_bytes(self) -> int:
        """What one position takes in all layers, keys and values."""
        return 2 * self.n_layers * self.row_bytes

    # ---- for files

    @property
    def row_bytes(self) -> int:
        """Of the keys, and as many of the values, of one position in one layer."""
        return self._heads * self._head_bytes(self._head_dim)

    def read_rows(self, layer: int, count: int) -> tuple[Bytes, Bytes]:
        """Keys and values of the first `count` positions, by kv head, position and element.

        Those of a quantized cache have an order of their own that depends on the lanes.
        """
        keys, values = (self._read(fields, count) for fields in self._fields(layer))
        return keys, values

    def write_rows(self, layer: int, keys: Bytes, values: Bytes) -> None:
        """The first positions of a layer, as `read_rows` gave them."""
        for fields, rows in zip(self._fields(layer), (keys, values), strict=True):
            self._write(fields, rows)

    def forget(self, layer: int, kept: int, end: int, count: int, angles: Angles) -> None:
        """Drop positions `kept` to `end` of `count`; those behind them move down, their keys turned
        by `angles` (head_dim / 2,).
        """
        keys, values = (
            np.delete(rows.reshape(self._heads, count, -1), slice(kept, end), 1)
            for rows in self.read_rows(layer, count)
        )
        keys[:, kept:] = turned(keys[:, kept:], self.bits, angles)
        self.write_rows(layer, keys, values)

    def _head_bytes(self, elements: int) -> int:
        return (
            elements * HALF_BYTES if self.bits == 16 else elements // BLOCK * block_bytes(self.bits)
        )

    def _read(self, fields: Sequence[Bytes], count: int) -> Bytes:
        lanes = fields[0].shape[2]
        flat = [
            field[:, : -(-count // lanes)].reshape(self._heads, -(-count // lanes) * lanes, -1)
            for field in fields
        ]
        rows = np.concatenate(flat, -1)[:, :count, : self._head_bytes(self._head_dim)]
        return np.ascontiguousarray(rows).ravel()

    def _write(self, fields: Sequence[Bytes], rows: Bytes) -> None:
        lanes, width = fields[0].shape[2], self._head_bytes(self._head_dim)
        by_position = rows.reshape(self._heads, -1, width)
        widths = [math.prod(field.shape[3:]) for field in fields]
        missing = -by_position.shape[1] % lanes, sum(widths) - width
        padded = np.pad(by_position, ((0, 0), (0, missing[0]), (0, missing[1])))
        groups = padded.shape[1] // lanes
        for field, part in zip(fields, np.split(padded, np.cumsum(widths[:-1]), -1), strict=True):
            field[:, :groups] = part.reshape(self._heads, groups, *field.shape[2:])

    def _fields(self, layer: int) -> tuple[list[Bytes], list[Bytes]]:
        """Views of keys and of values: (kv head, group of positions, lane, ...) each."""
        heads, lanes = self._heads, self._lanes
        keys = self._keys[layer].reshape(heads, self.capacity // lanes, -1)
        values = self._values[layer].reshape(heads, -1)
        if self.bits == 16:
            pairs = keys.reshape(*keys.shape[:2], -1, lanes, HALF_BYTES)
            groups = values.reshape(heads, -1, self.capacity, 1, lanes * HALF_BYTES)
            return [pairs.transpose(0, 1, 3, 2, 4)], [groups.transpose(0, 2, 3, 1, 4)]
        blocks = keys.reshape(*keys.shape[:2], self._head_dim // BLOCK, -1)
        factors = blocks[..., : HALF_BYTES * lanes].reshape(*blocks.shape[:3], lanes, HALF_BYTES)
        codes = blocks[..., HALF_BYTES * lanes :].reshape(*blocks.shape[:3], -1, lanes)
        n_codes = self.capacity * self._head_dim * self.bits // 8
        value_codes = values[:, :n_codes].reshape(heads, -1, self.capacity, 1, lanes)
        value_factors = values[:, n_codes:].reshape(heads, -1, self.capacity, 1, HALF_BYTES)
        return (
            [factors.transpose(0, 1, 3, 2, 4), codes.transpose(0, 1, 4, 2, 3)],
            [field.transpose(0, 2, 3, 1, 4) for field in (value_codes, value_factors)],
        )
