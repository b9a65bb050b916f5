"""The llama family: Llama 2 and 3, SmolLM, Mistral, Qwen2 (QKV bias), Qwen3 (Q/K norms).

One function over tensors; all that differs between architectures is a flag of the config. Knows
nothing of requests: a step is T tokens of B sequences, those of one token first, and logits are
made only for the rows that are sampled.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from enginebench_models import ModelConfig
from enginebench_paged.cache import KVCache
from enginebench_paged.cpu_step import CpuStep
from enginebench_paged.inputs import StepInputs
from enginebench_paged.loader import ModelWeights
from enginebench_paged.step_kernels import KernelStep, StepKernels

__all__ = ["Transformer", "rotary_table"]


def rotary_table(config: ModelConfig, length: int, device: torch.device) -> Tensor:
    """cos and sin of each position, (length, head_dim) float32, computed in float64."""
    angles = np.outer(np.arange(length, dtype=np.float64), config.inverse_frequencies())
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return torch.from_numpy(table).to(device)


class Transformer:
    """The model with its weights, computing on a KV cache that it is handed."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, rotary: Tensor) -> None:
        self.config, self.weights, self.rotary = config, weights, rotary
        self._kernels = KernelStep if rotary.is_cuda else CpuStep

    def logits(
        self, token_ids: Tensor, x: StepInputs[Tensor], tables: Tensor, cache: KVCache
    ) -> Tensor:
        """Compute a step, write its keys and values, return (S, vocab_size) for the sampled rows.

        `tables` holds the block table of every slot; `token_ids` are those of `x`, made complete.
        """
        return self.weights.head(self.hidden(token_ids, x, tables, cache))

    def hidden(
        self, token_ids: Tensor, x: StepInputs[Tensor], tables: Tensor, cache: KVCache
    ) -> Tensor:
        """The same before the head: (S, hidden), normed."""
        step: StepKernels = self._kernels(self.config, self.rotary, x, tables, cache)
        head_dim, layers = self.config.head_dim, self.weights.layers
        residual = step.begin(self.weights.embedding[token_ids])  # (T, hidden)
        hidden = step.norm(residual, layers[0].input_norm)
        for index, layer in enumerate(layers):
            qkv = layer.qkv(hidden).view(len(hidden), -1, head_dim)
            attended = step.attention(qkv, index, layer.q_norm, layer.k_norm)
            hidden, residual = step.add_norm(layer.output(attended), residual, layer.mlp_norm)
            hidden = layer.down(step.silu_mul(layer.gate_up(hidden)))
            if index + 1 < len(layers):
                hidden, residual = step.add_norm(hidden, residual, layers[index + 1].input_norm)
        if not x.sizes.all_sampled:
            hidden, residual = hidden[x.sample_rows], residual[x.sample_rows]
        hidden, _ = step.add_norm(hidden, residual, self.weights.final_norm)
        return hidden
