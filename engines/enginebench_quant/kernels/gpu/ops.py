"""The kernels by the names that the model calls: Triton for tensors on a GPU, else plain torch.

Signatures and shapes are described in `reference`. On a GPU none of these waits for the device or
copies to the host, so all of them may be captured in a CUDA graph. Triton is imported when a GPU
first asks for it.
"""

from functools import cache
from importlib import import_module
from typing import Any

import torch

__all__ = ["kernels", "workspace"]

_HOMES = {
    "product": ("gate_up", "product"),
    "dense": ("dense_product",),
    "expand": ("expand",),
    "elementwise": ("add_rms_norm", "gate_mul", "norm_add", "rope_and_cache"),
    "attention_decode": ("decode_attention",),
    "attention_prefill": ("prefill_attention",),
    "cache_rows": ("expand_rows", "round_rows"),
    "choose": ("choose", "scaled_logits"),
}


class _Triton:
    """All launchers as attributes."""

    def __init__(self) -> None:
        for module, names in _HOMES.items():
            home = import_module(f"enginebench_quant.kernels.gpu.{module}")
            for name in names:
                setattr(self, name, getattr(home, name))


@cache
def kernels(device_type: str) -> Any:
    """The launchers for "cuda", or their twins."""
    if device_type == "cuda":
        return _Triton()
    return import_module("enginebench_quant.kernels.gpu.reference")


def workspace(*sizes: int, device: torch.device, splits: int | None = None) -> Any:
    """What decode_attention needs: n_heads, n_kv_heads, head_dim, context; and in how many parts
    contexts are cut, if that is not left to it.
    """
    if device.type != "cuda":
        return None
    home = import_module("enginebench_quant.kernels.gpu.attention_decode")
    return home.AttentionWorkspace(*sizes, device, splits=splits)
