"""The KV cache: tensors of blocks, and how many blocks a machine has room for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from enginebench.errors import UsageError
from enginebench_models import ModelConfig
from enginebench_paged.config import PagedConfig

__all__ = ["KVCache", "KVScales", "block_bytes", "cpu_block_count", "fitting_blocks"]

_FREE_MEMORY_SHARE = 8  # on a CPU the cache takes at most this part of what is free


@dataclass(frozen=True, slots=True)
class KVScales:
    """What an fp8 cache's values are multiplied by, (n_layers, n_kv_heads) float32."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of each layer, (num_blocks, n_kv_heads, block_size, head_dim).

    `dtype` is what they are computed with; only an fp8 cache holds another one, and has `scales`.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    dtype: torch.dtype
    scales: KVScales | None = None

    @classmethod
    def allocate(
        cls,
        num_blocks: int,
        config: PagedConfig,
        model: ModelConfig,
        *,
        dtype: torch.dtype | None = None,
        scales: KVScales | None = None,
    ) -> KVCache:
        """Zeroed; on a CPU pages come into being when they are first written.

        Holds `dtype`, or what `config` says; fp8 with `scales`, which only measuring may leave out.
        """
        shape = (num_blocks, model.n_kv_heads, config.block_size, model.head_dim)
        held = dtype or config.kv_dtype
        if held == torch.float8_e4m3fn and scales is None:
            ones = torch.ones(model.n_layers, model.n_kv_heads, device=config.device)
            scales = KVScales(ones, ones)
        layers = range(model.n_layers)
        keys = tuple(_zeros(shape, held, config.device) for _ in layers)
        values = tuple(_zeros(shape, held, config.device) for _ in layers)
        return cls(keys, values, config.dtype, scales)

    def layer_scales(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Of its keys and its values, (n_kv_heads,) each; None where the cache has no scales."""
        scales = self.scales
        return None if scales is None else (scales.keys[layer], scales.values[layer])

    @property
    def num_blocks(self) -> int:
        return self.keys[0].shape[0]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros are the system's own untouched pages; torch's would be written here and now
    untouched = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(untouched).view(dtype).view(shape)


def block_bytes(config: PagedConfig, model: ModelConfig) -> int:
    """What one block costs over all layers, keys and values."""
    values = 2 * model.n_layers * model.n_kv_heads * config.block_size * model.head_dim
    return values * config.kv_dtype.itemsize


def fitting_blocks(room_bytes: int, config: PagedConfig, model: ModelConfig) -> int:
    """Blocks that fit `room_bytes`, at most what `max_batch` full contexts need."""
    blocks = min(
        room_bytes // block_bytes(config, model), config.max_batch * config.max_blocks_per_sequence
    )
    if blocks < 1:
        raise UsageError(
            f"there is room for {max(0, room_bytes) / 1e6:.1f} MB of KV cache, one block needs"
            f" {block_bytes(config, model) / 1e6:.1f} MB; raise kv_memory_gb or"
            " gpu_memory_fraction, or lower block_size"
        )
    return int(blocks)


def cpu_block_count(config: PagedConfig, model: ModelConfig, sharing: int = 1) -> int:
    """As told by `kv_memory_gb`, else by the memory that is free now, for so many processes."""
    room = config.kv_memory_bytes
    if room is None:
        room = psutil.virtual_memory().available // (_FREE_MEMORY_SHARE * sharing)
    return fitting_blocks(room, config, model)
