"""The KV cache in device memory, (kv heads, context, head_dim) f16 for keys and values of a layer.

Rows go to files and come from them as those of the CPU's cache in f16: the files are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enginebench_models import ModelConfig

__all__ = ["GpuCache", "cache_bytes"]

Rows = NDArray[np.uint8]
Angles = NDArray[np.float64]
HALF_BYTES = 2


def cache_bytes(config: ModelConfig, context: int) -> int:
    """Of one layer."""
    return 2 * config.n_kv_heads * config.head_dim * HALF_BYTES * context


class GpuCache:
    """Of all layers that this device computes; allocated whole."""

    def __init__(self, config: ModelConfig, context: int, device: torch.device) -> None:
        shape = (config.n_kv_heads, context, config.head_dim)

        def zeros() -> list[Tensor]:
            return [
                torch.zeros(shape, dtype=torch.float16, device=device)
                for _ in range(config.n_layers)
            ]

        self.context = context
        self.keys, self.values = zeros(), zeros()

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    @property
    def n_layers(self) -> int:
        return len(self.keys)

    @property
    def row_bytes(self) -> int:
        """Of the keys, and as many of the values, of one position in one layer."""
        heads, _, head_dim = self.keys[0].shape
        return heads * head_dim * HALF_BYTES

    @property
    def position_bytes(self) -> int:
        """What one position takes in all layers, keys and values."""
        return 2 * self.n_layers * self.row_bytes

    def forget(self, layer: int, kept: int, end: int, count: int, angles: Angles) -> None:
        """Drop positions `kept` to `end` of `count`; those behind them move down, their keys turned
        by `angles` (head_dim / 2,).
        """
        keys, values = self.keys[layer], self.values[layer]
        cos, sin = (torch.from_numpy(f(angles)).float().to(keys.device) for f in (np.cos, np.sin))
        low, high = keys[:, end:count].float().chunk(2, -1)
        turned = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
        keys[:, kept : kept + count - end] = turned.half()
        values[:, kept : kept + count - end] = values[:, end:count].clone()

    def read_rows(self, layer: int, count: int) -> tuple[Rows, Rows]:
        """Keys and values of the first `count` positions, by kv head, position and element."""
        keys, values = (
            tensor[layer][:, :count].contiguous().cpu().numpy().view(np.uint8).ravel()
            for tensor in (self.keys, self.values)
        )
        return keys, values

    @torch.inference_mode()
    def write_rows(self, layer: int, keys: Rows, values: Rows) -> None:
        """The first positions of a layer, as `read_rows` gave them."""
        for tensor, rows in ((self.keys[layer], keys), (self.values[layer], values)):
            heads, _, head_dim = tensor.shape
            halves = torch.from_numpy(rows.view(np.float16).copy()).view(heads, -1, head_dim)
            tensor[:, : halves.shape[1]] = halves.to(tensor.device)
