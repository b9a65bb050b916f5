"""The KV cache in device memory, (kv heads, context, head_dim) for keys and values of a layer.

In f16, or in q8_0: int8 with an f16 scale for each 32 elements of a head. Rows go to files and come
from them; in f16 as those of the CPU's cache, so that the files are the same.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enginebench.errors import ModelError
from enginebench_models import ModelConfig
from enginebench_quant.kernels.gpu import reference

__all__ = ["GPU_KV_TYPES", "GpuCache", "KvType", "cache_bytes"]

Rows = NDArray[np.uint8]
Angles = NDArray[np.float64]
KvType = Literal["f16", "q8_0"]
GPU_KV_TYPES = ("f16", "q8_0")
BLOCK, HALF_BYTES = 32, 2
QUANTIZED_HEADS = (64, 128, 256)


def cache_bytes(config: ModelConfig, context: int, kv_type: str) -> int:
    """Of one layer."""
    return 2 * context * config.n_kv_heads * _head_bytes(config.head_dim, kv_type)


def _head_bytes(head_dim: int, kv_type: str) -> int:
    if kv_type == "f16":
        return head_dim * HALF_BYTES
    return head_dim + head_dim // BLOCK * HALF_BYTES


class GpuCache:
    """Of all layers that this device computes; allocated whole.

    `scales` of a layer in f16 are None. `workspace` holds one layer in f16, for a chunk of prompt.
    """

    def __init__(
        self, config: ModelConfig, context: int, device: torch.device, kv_type: str = "f16"
    ) -> None:
        if kv_type != "f16" and config.head_dim not in QUANTIZED_HEADS:
            sizes = ", ".join(map(str, QUANTIZED_HEADS))
            raise ModelError(
                f"kv_type {kv_type} on a GPU needs heads of {sizes} elements; the model's have "
                f"{config.head_dim}: take kv_type f16"
            )
        self.context, self.kv_type = context, kv_type
        self._shape = (config.n_kv_heads, context, config.head_dim)
        layers, is_plain = range(config.n_layers), kv_type == "f16"
        dtype = torch.float16 if is_plain else torch.int8

        def zeros(dtype: torch.dtype, size: int = config.head_dim) -> Tensor:
            shape = (config.n_kv_heads, context, size)
            return torch.zeros(shape, dtype=dtype, device=device)

        def scales() -> Tensor:
            return zeros(torch.float16, config.head_dim // BLOCK)

        self.keys = [zeros(dtype) for _ in layers]
        self.values = [zeros(dtype) for _ in layers]
        self.scales = [None if is_plain else (scales(), scales()) for _ in layers]
        half = torch.float16
        self.workspace = None if is_plain else (zeros(half), zeros(half))

    @property
    def n_bytes(self) -> int:
        return self.position_bytes * self.context

    @property
    def n_layers(self) -> int:
        return len(self.keys)

    @property
    def row_bytes(self) -> int:
        """Of the keys, and as many of the values, of one position in one layer."""
        heads, _, head_dim = self._shape
        return heads * _head_bytes(head_dim, self.kv_type)

    @property
    def position_bytes(self) -> int:
        """What one position takes in all layers, keys and values."""
        return 2 * self.n_layers * self.row_bytes

    def read_rows(self, layer: int, count: int) -> tuple[Rows, Rows]:
        """Keys and values of the first `count` positions, by kv head, position and element; a
        quantized position's codes, then its scales.
        """
        keys, values = (
            torch.cat([part[:, :count].contiguous().view(torch.uint8) for part in parts], -1)
            .cpu()
            .numpy()
            .ravel()
            for parts in self._parts(layer)
        )
        return keys, values

    @torch.inference_mode()
    def write_rows(self, layer: int, keys: Rows, values: Rows) -> None:
        """The first positions of a layer, as `read_rows` gave them."""
        for parts, rows in zip(self._parts(layer), (keys, values), strict=True):
            whole = torch.from_numpy(rows.copy()).view(self._shape[0], -1, self._row_width())
            widths = [part.shape[-1] * part.element_size() for part in parts]
            pieces = torch.split(whole, widths, -1)
            for part, own in zip(parts, pieces, strict=True):
                part[:, : own.shape[1]] = own.contiguous().view(part.dtype).to(part.device)

    @torch.inference_mode()
    def forget(self, layer: int, kept: int, end: int, count: int, angles: Angles) -> None:
        """Drop positions `kept` to `end` of `count`; those behind them move down, their keys turned
        by `angles` (head_dim / 2,).
        """
        keys, values = self._parts(layer)
        cos, sin = (
            torch.from_numpy(f(angles)).float().to(keys[0].device) for f in (np.cos, np.sin)
        )
        low, high = self._plain(keys, end, count).chunk(2, -1)
        turned = torch.cat((low * cos - high * sin, high * cos + low * sin), -1).half()
        behind = slice(kept, kept + count - end)
        for part in values:
            part[:, behind] = part[:, end:count].clone()
        if len(keys) == 1:
            keys[0][:, behind] = turned
        else:
            span = torch.tensor([0, count - end])
            codes, scales = (torch.empty_like(part[:, behind]) for part in keys)
            reference.round_rows(turned, span, codes, scales)
            keys[0][:, behind], keys[1][:, behind] = codes, scales

    def _parts(self, layer: int) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors of keys and of values."""
        own = self.scales[layer]
        if own is None:
            return [self.keys[layer]], [self.values[layer]]
        return [self.keys[layer], own[0]], [self.values[layer], own[1]]

    def _row_width(self) -> int:
        return _head_bytes(self._shape[2], self.kv_type)

    @staticmethod
    def _plain(parts: list[Tensor], begin: int, end: int) -> Tensor:
        rows = parts[0][:, begin:end].float()
        if len(parts) == 1:
            return rows
        return rows * parts[1][:, begin:end].float().repeat_interleave(BLOCK, -1)
