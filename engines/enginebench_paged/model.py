"""The decoder: llama and its relatives; what differs between them is data of config and weights.

One function over tensors. Knows nothing of requests: a step is T tokens of B sequences, those of
one token first, and logits are made only for the rows that are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from enginebench_models import LayerAttention, ModelConfig
from enginebench_paged.cache import KVCache
from enginebench_paged.cpu_step import CpuStep
from enginebench_paged.fixed_cpu_step import FixedCpuStep
from enginebench_paged.fixed_products import fixed, in_rows
from enginebench_paged.inputs import StepInputs
from enginebench_paged.loader import ModelWeights
from enginebench_paged.parallel.ranks import ALONE, Ranks
from enginebench_paged.step_kernels import (
    FixedKernelStep,
    KernelStep,
    LayerPositions,
    StepKernels,
)
from enginebench_paged.unfused_step import UnfusedStep

__all__ = ["Transformer", "rotary_table"]


def rotary_table(
    config: ModelConfig, length: int, device: torch.device
) -> tuple[LayerPositions, ...]:
    """What each layer sees, with cos and sin of each of `length` positions; equal layers share."""
    kinds = {kind: _positions(kind, config.head_dim, length, device) for kind in set(config.layers)}
    return tuple(kinds[kind] for kind in config.layers)


def _positions(
    kind: LayerAttention, head_dim: int, length: int, device: torch.device
) -> LayerPositions:
    """The table is (length, head_dim) float32, computed in float64."""
    frequencies = kind.frequencies(head_dim, length)
    angles = np.outer(np.arange(length, dtype=np.float64), frequencies)
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * kind.magnitude
    return LayerPositions(torch.from_numpy(table.astype(np.float32)).to(device), kind.window)


class Transformer:
    """The model with its weights, computing on a KV cache that it is handed."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        positions: Sequence[LayerPositions],
        *,
        fused: bool = True,
        deterministic: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        """`config` and `weights` are those of this rank's part."""
        self.ranks = ranks
        self.config, self.positions = config, positions
        self.weights = fixed(weights) if deterministic else weights
        self._deterministic = deterministic
        self._kernels: Callable[..., StepKernels]
        if not positions[0].rotary.is_cuda:
            self._kernels = FixedCpuStep if deterministic else CpuStep
        elif deterministic:
            self._kernels = FixedKernelStep
        else:
            self._kernels = KernelStep if fused else UnfusedStep

    def logits(
        self, token_ids: Tensor, x: StepInputs[Tensor], tables: Tensor, cache: KVCache
    ) -> Tensor:
        """Compute a step, write its keys and values, return (S, vocab_size) for the sampled rows.

        `tables` holds the block table of every slot; `token_ids` are those of `x`, made complete.
        """
        return self.head(self.hidden(token_ids, x, tables, cache))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (S, vocab_size) of what `hidden` returned."""
        logits = self.ranks.side_by_side(self.weights.head(hidden), self.config.vocab_size)
        cap = self.config.final_softcap
        if cap is None:
            return logits
        scaled = logits / cap
        return (in_rows(torch.tanh, scaled) if self._deterministic else torch.tanh(scaled)) * cap

    def hidden(
        self, token_ids: Tensor, x: StepInputs[Tensor], tables: Tensor, cache: KVCache
    ) -> Tensor:
        """The same before the head: (S, hidden), normed."""
        step: StepKernels = self._kernels(self.config, self.positions, x, tables, cache)
        head_dim, layers = self.config.head_dim, self.weights.layers
        residual = step.begin(self._embed(token_ids))  # (T, hidden)
        hidden = step.norm(residual, layers[0].input_norm)
        for index, layer in enumerate(layers):
            qkv = layer.qkv(hidden).view(len(hidden), -1, head_dim)
            attended = step.attention(qkv, index, layer.q_norm, layer.k_norm)
            hidden = self.ranks.sum(layer.output(attended))
            if layer.output_norm is not None:
                hidden = step.post_norm(hidden, layer.output_norm)
            hidden, residual = step.add_norm(hidden, residual, layer.mlp_norm)
            hidden = self.ranks.sum(layer.feed_forward(step.gate, hidden))
            if layer.feed_forward_norm is not None:
                hidden = step.post_norm(hidden, layer.feed_forward_norm)
            if index + 1 < len(layers):
                hidden, residual = step.add_norm(hidden, residual, layers[index + 1].input_norm)
        if not x.sizes.all_sampled:
            hidden, residual = hidden[x.sample_rows], residual[x.sample_rows]
        hidden, _ = step.add_norm(hidden, residual, self.weights.final_norm)
        return hidden

    def _embed(self, token_ids: Tensor) -> Tensor:
        """(T, hidden); each rank holds the rows of some tokens and gives zeros for the others."""
        table, ranks = self.weights.embedding, self.ranks
        if ranks.count == 1:
            return table[token_ids]
        own = token_ids - ranks.rank * -(-self.config.vocab_size // ranks.count)
        foreign = (own < 0) | (own >= len(table))
        found = table[own.clamp(0, len(table) - 1)]
        return ranks.sum(found.masked_fill_(foreign[:, None], 0))
