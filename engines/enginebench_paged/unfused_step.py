"""A step without fused kernels, to see what fusing is worth (option `fused_ops`).

Adding, norming, rotating and gating are plain torch, a launch and a round trip to memory each. Only
the write into the cache stays a kernel of ours: torch has none that skips the padding of a graph.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from enginebench_paged.kernels import ops, reference
from enginebench_paged.step_kernels import KernelStep

__all__ = ["UnfusedStep"]


class UnfusedStep(KernelStep):
    """`KernelStep`, but each operation on its own."""

    def norm(self, residual: Tensor, weight: Tensor) -> Tensor:
        return reference.rms_norm(residual, weight, self._eps)

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.norm(total, weight), total

    def post_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.norm(x, weight)

    def gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        if self._config.activation == "gelu_tanh":
            return functional.gelu(gate, approximate="tanh") * up
        return functional.silu(gate) * up

    def _rotate_and_store(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor,
        q_norm: Tensor | None, k_norm: Tensor | None,
    ) -> Tensor:  # fmt: skip
        x, rotary = self._x, self._positions[layer].rotary
        q = q if q_norm is None else self.norm(q, q_norm)
        k = k if k_norm is None else self.norm(k, k_norm)
        q, k = (reference.rotate(part, rotary, x.positions) for part in (q, k))
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        nowhere, unturned = torch.zeros_like(x.positions), _identity(rotary)
        return ops.rope_and_cache(
            q, k, v, nowhere, unturned, keys, values, x.cache_slots,
            scales=self._cache.layer_scales(layer),
        )  # fmt: skip


def _identity(rotary: Tensor) -> Tensor:
    """A table with one position, at which nothing turns: (1, head_dim)."""
    half = rotary.shape[1] // 2
    return torch.cat((rotary.new_ones(1, half), rotary.new_zeros(1, half)), dim=1)
