"""The KV cache: keys and values of every layer in f16, for one sequence.

Its layout is that of `kernels/attention.py`. It is allocated for the whole context at once, but
memory is taken only as positions are written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enginebench_models import ModelConfig
from enginebench_quant.memory import zeros

__all__ = ["KVCache"]

Bytes = NDArray[np.uint8]
HALF_BYTES = 2


class KVCache:
    """Room for `context` positions, rounded up so that whole tiles may be read past the end."""

    def __init__(self, config: ModelConfig, context: int, *, lanes: int, tile: int) -> None:
        self.capacity = -(-(context + tile) // lanes) * lanes
        self._heads, self._head_dim, self._lanes = config.n_kv_heads, config.head_dim, lanes
        padded_dim = -(-config.head_dim // lanes) * lanes
        heads = config.n_kv_heads * self.capacity * HALF_BYTES
        self._keys = [zeros(heads * config.head_dim) for _ in range(config.n_layers)]
        self._values = [zeros(heads * padded_dim) for _ in range(config.n_layers)]

    def keys(self, layer: int) -> int:
        """Address of a layer's keys."""
        return self._keys[layer].ctypes.data

    def values(self, layer: int) -> int:
        """Address of a layer's values."""
        return self._values[layer].ctypes.data

    # ---- for files

    @property
    def n_layers(self) -> int:
        return len(self._keys)

    @property
    def row_bytes(self) -> int:
        """Of the keys, and as many of the values, of one position in one layer."""
        return self._heads * self._head_dim * HALF_BYTES

    def read_rows(self, layer: int, count: int) -> tuple[Bytes, Bytes]:
        """Keys and values of the first `count` positions, by kv head, position and element."""
        keys, values = self._by_group(layer, count)
        positions = keys.shape[1] * self._lanes
        key_rows = keys.swapaxes(2, 3).reshape(self._heads, positions, -1)[:, :count]
        value_rows = values.swapaxes(1, 2).reshape(self._heads, count, -1)[..., : self._head_dim]
        return _bytes(key_rows), _bytes(value_rows)

    def write_rows(self, layer: int, keys: Bytes, values: Bytes) -> None:
        """The first positions of a layer, as `read_rows` gave them."""
        count = keys.size // self.row_bytes
        shape = (self._heads, count, self._head_dim)
        to_keys, to_values = self._by_group(layer, count)
        padding = to_keys.shape[1] * self._lanes - count
        rows = np.pad(keys.view(np.float16).reshape(shape), ((0, 0), (0, padding), (0, 0)))
        to_keys[:] = rows.reshape(self._heads, -1, self._lanes, self._head_dim).swapaxes(2, 3)
        padding = to_values.shape[1] * self._lanes - self._head_dim
        rows = np.pad(values.view(np.float16).reshape(shape), ((0, 0), (0, 0), (0, padding)))
        to_values[:] = rows.reshape(self._heads, count, -1, self._lanes).swapaxes(1, 2)

    def _by_group(self, layer: int, count: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Views of all positions up to `count`, of the keys up to a whole group:
        (kv head, group, element, lane) and (kv head, group of elements, position, lane).
        """
        groups, lanes = self.capacity // self._lanes, self._lanes
        keys = self._keys[layer].view(np.float16).reshape(self._heads, groups, -1, lanes)
        values = self._values[layer].view(np.float16).reshape(self._heads, -1, self.capacity, lanes)
        return keys[:, : -(-count // lanes)], values[:, :, :count]


def _bytes(rows: NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(rows).view(np.uint8).ravel()
