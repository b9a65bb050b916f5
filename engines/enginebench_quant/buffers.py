"""What lies between the embedding and the logits: rows of activations and scratch, made once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enginebench_models import ModelConfig
from enginebench_quant.kernels.activations import BLOCK, BLOCK_BYTES
from enginebench_quant.kernels.arguments import list_words, part_floats
from enginebench_quant.kernels.crew import TASKS_PER_THREAD
from enginebench_quant.memory import zeros
from enginebench_quant.packed import padded_columns

__all__ = ["Activations", "Buffers", "ExpertBuffers", "heads_in_group"]

FLOAT_BYTES = 4


def heads_in_group(config: ModelConfig) -> int:
    """Query heads that share a kv head."""
    return config.n_heads // config.n_kv_heads


@dataclass(frozen=True, slots=True)
class Activations:
    """Rows of activations, twice: as floats (`address`, rows of `stride` bytes) and quantized."""

    floats: NDArray[np.float32]  # (tokens, padded columns)
    blocks: NDArray[np.uint8]  # BLOCK_BYTES for each 32 of `floats`

    @classmethod
    def of(cls, tokens: int, columns: int) -> Activations:
        padded = padded_columns(columns)
        floats = zeros(tokens * padded * FLOAT_BYTES).view(np.float32).reshape(tokens, padded)
        return cls(floats, zeros(tokens * padded // BLOCK * BLOCK_BYTES))

    @property
    def address(self) -> int:
        return self.floats.ctypes.data

    @property
    def q8(self) -> int:
        return self.blocks.ctypes.data

    @property
    def stride(self) -> int:
        return int(self.floats.strides[0])

    @property
    def n_blocks(self) -> int:
        return int(self.floats.shape[1]) // BLOCK


class ExpertBuffers:
    """Of a mixture of experts: a row for each assignment of a token to an expert.

    `rows` are normed activations quantized row by row, whatever the tile of other products is.
    """

    def __init__(self, config: ModelConfig, max_tokens: int) -> None:
        experts = config.experts
        assert experts is not None
        self.most = max_tokens * experts.used
        self.scores = Activations.of(max_tokens, experts.count)
        self.gate = Activations.of(self.most, experts.size)
        self.up = Activations.of(self.most, experts.size)
        self.found = Activations.of(self.most, config.hidden_size)
        self.rows = zeros(max_tokens * padded_columns(config.hidden_size) // BLOCK * BLOCK_BYTES)
        self.weights = np.zeros(self.most, np.float32)
        self.lists = np.zeros(list_words(experts.count, self.most), np.int64)


class Buffers:
    """Everything between the embedding and the logits, for chunks of up to `max_tokens`,
    and the logits of `logits_rows` of them."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        max_tokens: int,
        logits_rows: int,
        tile: int,
        lanes: int,
        capacity: int,
        threads: int,
    ) -> None:
        q_size, kv_size = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.max_tokens = max_tokens
        self.x = Activations.of(max_tokens, config.hidden_size)
        self.normed = Activations.of(max_tokens, config.hidden_size)
        self.q = Activations.of(max_tokens, q_size)
        self.k = Activations.of(max_tokens, kv_size)
        self.v = Activations.of(max_tokens, kv_size)
        self.attended = Activations.of(max_tokens, q_size)
        inner = config.intermediate_size
        if config.experts is not None:
            inner = config.experts.shared_size or 1
        self.gate, self.up = Activations.of(max_tokens, inner), Activations.of(max_tokens, inner)
        # What a part of a layer yields, where it does not go straight into x
        self.delta = Activations.of(max_tokens, config.hidden_size)
        self.experts = None if config.experts is None else ExpertBuffers(config, max_tokens)
        self.logits = Activations.of(logits_rows, config.vocab_size)
        # One table for each kind of layer, in the order of `kinds`
        self.kinds = tuple(dict.fromkeys(config.layers))
        angles = len(self.kinds) * max_tokens * config.head_dim
        self.cos_sin = zeros(angles * FLOAT_BYTES).view(np.float32)
        self.cos_sin = self.cos_sin.reshape(-1, max_tokens, 2, config.head_dim // 2)
        rows = max(tile, heads_in_group(config))
        self.scratch_bytes = rows * (2 * capacity + padded_columns(config.head_dim) + 2)
        self.scratch_bytes *= FLOAT_BYTES
        self.scratch = zeros(self.scratch_bytes * threads)
        self.splits = 1 if threads == 1 else -(-threads * TASKS_PER_THREAD // config.n_kv_heads)
        part = part_floats(heads_in_group(config), config.head_dim, lanes) * FLOAT_BYTES
        self.part_bytes = config.n_kv_heads * self.splits * part  # of one token's attention
        self.parts = zeros(logits_rows * self.part_bytes)
        self.state = np.zeros(2, np.int64)  # tokens of this launch, position of the first
        self.row_states = np.ones((logits_rows, 2), np.int64)  # each token as a launch by itself
