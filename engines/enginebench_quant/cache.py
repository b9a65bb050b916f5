"""The KV cache: keys and values of every layer in f16, for one sequence.

Its layout is that of `kernels/attention.py`. It is allocated for the whole context at once, but
memory is taken only as positions are written.
"""

from __future__ import annotations

from enginebench_models import ModelConfig
from enginebench_quant.memory import zeros

__all__ = ["KVCache"]

HALF_BYTES = 2


class KVCache:
    """Room for `context` positions, rounded up so that whole tiles may be read past the end."""

    def __init__(self, config: ModelConfig, context: int, *, lanes: int, tile: int) -> None:
        self.capacity = -(-(context + tile) // lanes) * lanes
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
