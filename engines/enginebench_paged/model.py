"""The llama family: Llama 2 and 3, SmolLM, Mistral, Qwen2 (QKV bias), Qwen3 (Q/K norms).

One function over tensors; all that differs between architectures is a flag of the config. Knows
nothing of requests: a step is T tokens of B sequences, those of one token first, and logits are made
only for the rows that are sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from enginebench_models import ModelConfig
from enginebench_paged.cache import KVCache
from enginebench_paged.inputs import StepInputs
from enginebench_paged.kernels import ops
from enginebench_paged.loader import LayerWeights, ModelWeights

__all__ = ["Transformer", "rotary_table"]


def rotary_table(config: ModelConfig, length: int, device: torch.device) -> Tensor:
    """cos and sin of each position, (length, head_dim) float32, computed in float64."""
    angles = np.outer(np.arange(length, dtype=np.float64), config.inverse_frequencies())
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return torch.from_numpy(table).to(device)


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences that attend together: all with one query each, or all the others."""

    tokens: slice
    block_tables: Tensor
    context_lens: Tensor
    query_starts: Tensor
    max_query_len: int


class Transformer:
    """The model with its weights, computing on a KV cache that it is handed."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, rotary: Tensor) -> None:
        self.config, self.weights, self.rotary = config, weights, rotary
        self._scale = config.head_dim**-0.5

    def logits(
        self, token_ids: Tensor, x: StepInputs[Tensor], tables: Tensor, cache: KVCache
    ) -> Tensor:
        """Compute a step, write its keys and values, return (S, vocab_size) for the sampled rows.

        `tables` holds the block table of every slot; `token_ids` are those of `x`, made complete.
        """
        eps, layers = self.config.rms_norm_eps, self.weights.layers
        groups = _groups(x, tables)
        residual = self.weights.embedding[token_ids]  # (T, hidden)
        hidden = ops.rms_norm(residual, layers[0].input_norm, eps)
        for index, layer in enumerate(layers):
            hidden = self._attention(hidden, layer, index, x, groups, cache)
            hidden, residual = ops.add_rms_norm(hidden, residual, layer.mlp_norm, eps)
            hidden = layer.down(ops.silu_mul(layer.gate_up(hidden)))
            last = index + 1 == len(layers)
            norm = self.weights.final_norm if last else layers[index + 1].input_norm
            if last and x.sizes.samples < x.sizes.tokens:
                hidden, residual = hidden[x.sample_rows], residual[x.sample_rows]
            hidden, residual = ops.add_rms_norm(hidden, residual, norm, eps)
        return self.weights.head(hidden)

    def _attention(
        self,
        hidden: Tensor,
        layer: LayerWeights,
        index: int,
        x: StepInputs[Tensor],
        groups: list[_Group],
        cache: KVCache,
    ) -> Tensor:
        config = self.config
        keys, values = cache.keys[index], cache.values[index]
        qkv = layer.qkv(hidden)
        heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        q, k, v = qkv.view(len(qkv), sum(heads), config.head_dim).split(heads, dim=1)
        q = ops.rope_and_cache(
            q, k, v, x.positions, self.rotary, keys, values, x.cache_slots,
            layer.q_norm, layer.k_norm, config.rms_norm_eps,
        )  # fmt: skip
        parts = [
            ops.paged_attention(
                q[group.tokens], keys, values, group.block_tables, group.context_lens,
                group.query_starts, group.max_query_len,
                scale=self._scale, window=config.sliding_window,
            )
            for group in groups
        ]  # fmt: skip
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return layer.output(attended.view(len(qkv), -1))


def _groups(x: StepInputs[Tensor], tables: Tensor) -> list[_Group]:
    """One kernel for decodes and one for prefills: a single branchy one would cost both."""
    sizes = x.sizes
    width = sizes.width or tables.shape[1]
    own = tables[:, :width].index_select(0, x.sequence_slots)  # (B, width)
    lens, starts, n = x.context_lens, x.query_starts, sizes.decodes
    groups = []
    if n:
        groups.append(_Group(slice(0, n), own[:n], lens[:n], starts[: n + 1], 1))
    if n < sizes.sequences:
        rest = slice(n, sizes.tokens)
        groups.append(_Group(rest, own[n:], lens[n:], starts[n:] - n, sizes.max_query_len))
    return groups
