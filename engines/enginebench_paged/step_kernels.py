"""What a layer does between its matrix products, bound to one step.

All that is the same in every layer of a step (block tables, masks, rotary angles, where keys go)
is worked out once, when the object is made; a layer then only computes. There are two: this one
calls `kernels.ops`, the other one, for CPUs, is in `cpu_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from enginebench_models import ModelConfig
from enginebench_paged.cache import KVCache
from enginebench_paged.inputs import StepInputs
from enginebench_paged.kernels import ops

__all__ = ["FixedKernelStep", "KernelStep", "LayerPositions", "StepKernels"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerPositions:
    """Cosines and sines of all positions, (length, head_dim), and how many keys a query sees.

    Layers that agree in both share one object, and are told apart by it.
    """

    rotary: Tensor
    window: int | None


class StepKernels(Protocol):
    """Shapes: T tokens, `hidden` and `residual` (T, hidden_size)."""

    def begin(self, embedded: Tensor) -> Tensor:
        """The residual stream that the embedded tokens start."""
        ...

    def norm(self, residual: Tensor, weight: Tensor) -> Tensor:
        """The RMS norm of the stream, in the run's dtype."""
        ...

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The stream with `x` added: its norm, and itself."""
        ...

    def post_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """The norm of what a part of the layer yields, before it joins the stream."""
        ...

    def attention(
        self, qkv: Tensor, layer: int, q_norm: Tensor | None, k_norm: Tensor | None
    ) -> Tensor:
        """Write the keys and values of qkv (T, heads + 2 * kv_heads, head_dim), then attend.

        Returns (T, heads * head_dim).
        """
        ...

    def gate(self, gate_up: Tensor) -> Tensor:
        """The activation of the first half, times the second half."""
        ...


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences that attend together: all with one query each, or all the others."""

    tokens: slice
    block_tables: Tensor
    context_lens: Tensor
    query_starts: Tensor
    max_query_len: int


class KernelStep:
    """A step on `kernels.ops`; `tables` holds the block table of every slot."""

    _attend = staticmethod(ops.paged_attention)

    def __init__(
        self,
        config: ModelConfig,
        positions: Sequence[LayerPositions],
        x: StepInputs[Tensor],
        tables: Tensor,
        cache: KVCache,
    ) -> None:
        self._config, self._positions, self._x, self._cache = config, positions, x, cache
        self._eps, self._scale = config.rms_norm_eps, config.scale
        self._groups = _groups(x, tables)

    def begin(self, embedded: Tensor) -> Tensor:
        scale = self._config.embedding_scale
        return embedded if scale is None else embedded * scale

    def norm(self, residual: Tensor, weight: Tensor) -> Tensor:
        return ops.rms_norm(residual, weight, self._eps)

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return ops.add_rms_norm(x, residual, weight, self._eps)

    def post_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return ops.rms_norm(x, weight, self._eps)

    def gate(self, gate_up: Tensor) -> Tensor:
        if self._config.activation == "gelu_tanh":
            return ops.gelu_mul(gate_up)
        return ops.silu_mul(gate_up)

    def attention(
        self, qkv: Tensor, layer: int, q_norm: Tensor | None, k_norm: Tensor | None
    ) -> Tensor:
        config, positions = self._config, self._positions[layer]
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        heads = [config.n_heads, config.n_kv_heads, config.n_kv_heads]
        q, k, v = torch.split(qkv, heads, dim=1)
        q = self._rotate_and_store(layer, q, k, v, q_norm, k_norm)
        parts = [
            self._attend(
                q[group.tokens], keys, values, group.block_tables, group.context_lens,
                group.query_starts, group.max_query_len,
                scale=self._scale, window=positions.window, softcap=config.attention_softcap,
                scales=self._cache.layer_scales(layer),
            )
            for group in self._groups
        ]  # fmt: skip
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return attended.view(len(qkv), -1)

    def _rotate_and_store(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor,
        q_norm: Tensor | None, k_norm: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """The rotated q; k and v go into the cache."""
        return ops.rope_and_cache(
            q, k, v, self._x.positions, self._positions[layer].rotary,
            self._cache.keys[layer], self._cache.values[layer], self._x.cache_slots,
            q_norm, k_norm, self._eps, self._cache.layer_scales(layer),
        )  # fmt: skip


class FixedKernelStep(KernelStep):
    """The same, and what a token yields does not depend on what else is in the step: all kernels
    but those of attention take each row by itself.
    """

    _attend = staticmethod(ops.fixed_attention)


def _groups(x: StepInputs[Tensor], tables: Tensor) -> list[_Group]:
    """One kernel for decodes and one for prefills: a single branchy one would cost both."""
    sizes = x.sizes
    own = tables.index_select(0, x.sequence_slots)  # (B, max blocks)
    lens, starts, n = x.context_lens, x.query_starts, sizes.decodes
    groups = []
    if n:
        groups.append(_Group(slice(0, n), own[:n], lens[:n], starts[: n + 1], 1))
    if n < sizes.sequences:
        rest = slice(n, sizes.tokens)
        groups.append(_Group(rest, own[n:], lens[n:], starts[n:] - n, sizes.max_query_len))
    return groups
