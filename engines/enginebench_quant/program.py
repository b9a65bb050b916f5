"""The forward pass written down as programs for the crew: phases of kernel calls.

One program computes a single token and its logits, one a chunk of prompt without logits, one the
logits of a row, one a few tokens and the logits of each. Buffers are owned here; nothing runs here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enginebench_models import ModelConfig
from enginebench_quant.buffers import Activations, Buffers, heads_in_group
from enginebench_quant.cache import KVCache
from enginebench_quant.expert_phases import ExpertPhases
from enginebench_quant.kernels.activations import BLOCK_BYTES
from enginebench_quant.kernels.arguments import (
    ATTEND_ARGUMENTS,
    ATTEND_ONE_ARGUMENTS,
    CAP_COLUMNS,
    MATMUL_ARGUMENTS,
    MERGE_ARGUMENTS,
    ROPE_ARGUMENTS,
)
from enginebench_quant.kernels.crew import TASKS_PER_THREAD, Program, Task, split_tasks
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.packed import PackedMatrix, PackedWeights

__all__ = ["ProgramWriter"]


def _float_bits(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


class ProgramWriter:
    """Writes the programs of one model over one set of buffers."""

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedWeights,
        cache: KVCache,
        buffers: Buffers,
        kernels: Kernels,
        *,
        threads: int,
        tile: int,
        max_tokens: int,
    ) -> None:
        self._config, self._weights, self._cache = config, weights, cache
        self._buffers, self._kernels = buffers, kernels
        self._threads, self._tile, self._max_tokens = threads, tile, max_tokens
        self._kinds = config.layers

    def decode(self) -> Program:
        """One token: all layers, then the logits."""
        return Program([*self._layers(1, alone=True), *self._head(1)])

    def prefill(self) -> Program:
        """Up to `max_tokens` tokens through all layers."""
        return Program(list(self._layers(self._tile, alone=False)))

    def logits(self) -> Program:
        """The logits of row 0 of x."""
        return Program(self._head(1))

    def verify(self) -> Program:
        """`max_tokens` tokens through all layers, and the logits of each; summed as in `decode`."""
        layers = self._layers(self._tile, alone=True)
        return Program([*layers, *self._head(self._tile)])

    # ---- phases

    def _layers(self, tile: int, *, alone: bool) -> list[list[Task]]:
        """`alone`: each token's attention as if it were the only one, else in tiles."""
        n_layers = self._config.n_layers
        return [p for layer in range(n_layers) for p in self._layer(layer, tile, alone)]

    def _layer(self, layer: int, tile: int, alone: bool) -> list[list[Task]]:
        b, name = self._buffers, f"blk.{layer}."

        def matrix(part: str) -> PackedMatrix:
            return self._weights.matrix(f"{name}{part}.weight")

        return [
            self._norm(f"{name}attn_norm.weight", tile),
            self._matmuls(
                b.normed,
                [(matrix("attn_q"), b.q), (matrix("attn_k"), b.k), (matrix("attn_v"), b.v)],
                tile,
            ),
            self._rope(layer, tile),
            *self._attention(layer, tile, alone),
            *self._joined(b.attended, matrix("attn_output"), f"{name}post_attention_norm", tile),
            self._norm(f"{name}ffn_norm.weight", tile),
            *self._feed_forward(name, tile),
        ]

    def _feed_forward(self, name: str, tile: int) -> list[list[Task]]:
        """From `normed` into the residual stream."""
        b, weights = self._buffers, self._weights
        if b.experts is None:
            down = weights.matrix(f"{name}ffn_down.weight")
            return [
                *self._gated(name, "", tile),
                *self._joined(b.gate, down, f"{name}post_ffw_norm", tile),
            ]
        phases = ExpertPhases(self._config, weights, b, b.experts, self._kernels, self._split)
        router = weights.matrix(f"{name}ffn_gate_inp.weight")
        scores = self._matmuls(b.normed, [(router, b.experts.scores)], tile)
        shared: list[list[Task]] = []
        if self._config.experts is not None and self._config.experts.shared_size is not None:
            down = weights.matrix(f"{name}ffn_down_shexp.weight")
            shared = [
                *self._gated(name, "_shexp", tile),
                self._matmuls(b.gate, [(down, b.delta)], tile),
            ]
        return [scores, *shared, *phases.write(name, tile, self._tokens(tile))]

    def _gated(self, name: str, suffix: str, tile: int) -> list[list[Task]]:
        b = self._buffers
        gate, up = (self._weights.matrix(f"{name}ffn_{p}{suffix}.weight") for p in ("gate", "up"))
        return [self._matmuls(b.normed, [(gate, b.gate), (up, b.up)], tile), self._gate(tile)]

    def _joined(
        self, source: Activations, matrix: PackedMatrix, norm: str, tile: int
    ) -> list[list[Task]]:
        """A product into the residual stream, through a norm where the model has one."""
        b, config = self._buffers, self._config
        if not config.post_norms:
            return [self._matmuls(source, [(matrix, b.x)], tile, accumulate=True)]
        arguments = self._arguments(
            b.delta.address,
            b.delta.stride,
            self._vector(f"{norm}.weight"),
            config.hidden_size,
            b.delta.n_blocks,
            _float_bits(config.rms_norm_eps),
            b.x.address,
            b.state.ctypes.data,
        )
        return [
            self._matmuls(source, [(matrix, b.delta)], tile),
            self._split(self._kernels.norm_add(), arguments, self._tokens(tile)),
        ]

    def _head(self, tile: int) -> list[list[Task]]:
        """Nothing where the weights are those of the first layers only."""
        if not self._weights.has_head:
            return []
        b = self._buffers
        phases = [
            self._norm("output_norm.weight", tile),
            self._matmuls(b.normed, [(self._weights.head, b.logits)], tile),
        ]
        return phases if self._config.final_softcap is None else [*phases, self._capped(tile)]

    def _capped(self, tile: int) -> list[Task]:
        b, cap = self._buffers, self._config.final_softcap or 0.0
        columns = b.logits.floats.shape[1]
        arguments = self._arguments(
            b.logits.address, b.logits.stride, columns, _float_bits(cap), b.state.ctypes.data
        )
        count = self._tokens(tile) * columns // CAP_COLUMNS
        return self._split(self._kernels.cap(), arguments, count)

    def _tokens(self, tile: int) -> int:
        return 1 if tile == 1 else self._max_tokens

    def _norm(self, weight: str, tile: int) -> list[Task]:
        b, config = self._buffers, self._config
        arguments = self._arguments(
            b.x.address,
            b.x.stride,
            self._vector(weight),
            config.hidden_size,
            b.x.n_blocks,
            _float_bits(config.rms_norm_eps),
            b.normed.address,
            b.normed.q8,
            b.state.ctypes.data,
        )
        return self._split(self._kernels.norm(tile), arguments, self._tokens(tile))

    def _quantize(self, rows: Activations, tile: int) -> list[Task]:
        arguments = self._arguments(
            rows.address, rows.stride, rows.n_blocks, rows.q8, self._buffers.state.ctypes.data
        )
        count = self._tokens(tile) * rows.n_blocks
        return self._split(self._kernels.quantize(tile), arguments, count)

    def _gate(self, tile: int) -> list[Task]:
        b = self._buffers
        arguments = self._arguments(
            b.gate.address,
            b.up.address,
            b.gate.stride,
            b.gate.n_blocks,
            b.gate.q8,
            b.state.ctypes.data,
        )
        count = self._tokens(tile) * b.gate.n_blocks
        return self._split(self._kernels.gate(tile, self._config.activation), arguments, count)

    def _matmuls(
        self,
        source: Activations,
        products: Sequence[tuple[PackedMatrix, Activations]],
        tile: int,
        *,
        accumulate: bool = False,
    ) -> list[Task]:
        """Products of the same activations, side by side in one phase."""
        total_bytes = sum(matrix.data.size for matrix, _ in products)
        tasks: list[Task] = []
        for matrix, target in products:
            share = matrix.data.size / total_bytes
            arguments = self._matmul_arguments(source, matrix, target, tile, accumulate)
            kernel = self._kernels.matmul(matrix.kind, tile)
            tasks += self._split(kernel, arguments, matrix.groups, share)
        return tasks

    def _matmul_arguments(
        self,
        source: Activations,
        matrix: PackedMatrix,
        target: Activations,
        tile: int,
        accumulate: bool,
    ) -> NDArray[np.int64]:
        is_float = FORMATS[matrix.kind].activations == "float"
        values = {
            "weights": matrix.data.ctypes.data,
            "group_bytes": matrix.group_bytes,
            "steps": matrix.steps,
            "acts": source.address if is_float else source.q8,
            "acts_stride": source.stride,
            "tile_bytes": tile * (source.stride if is_float else source.n_blocks * BLOCK_BYTES),
            "out": target.address,
            "out_stride": target.stride,
            "accumulate": int(accumulate),
            "state": self._buffers.state.ctypes.data,
        }
        return self._arguments(*(values[name] for name in MATMUL_ARGUMENTS))

    def _rope(self, layer: int, tile: int) -> list[Task]:
        b, config, name = self._buffers, self._config, f"blk.{layer}."
        values = {
            "q": b.q.address,
            "k": b.k.address,
            "v": b.v.address,
            "q_stride": b.q.stride,
            "kv_stride": b.k.stride,
            "q_bias": self._vector(f"{name}attn_q.bias"),
            "k_bias": self._vector(f"{name}attn_k.bias"),
            "v_bias": self._vector(f"{name}attn_v.bias"),
            "q_norm": self._vector(f"{name}attn_q_norm.weight"),
            "k_norm": self._vector(f"{name}attn_k_norm.weight"),
            "eps": _float_bits(config.rms_norm_eps),
            "head_dim": config.head_dim,
            "kv_heads": config.n_kv_heads,
            "group": heads_in_group(config),
            "cos_sin": b.cos_sin[b.kinds.index(self._kinds[layer])].ctypes.data,
            "k_cache": self._cache.keys(layer),
            "v_cache": self._cache.values(layer),
            "capacity": self._cache.capacity,
            "state": b.state.ctypes.data,
        }
        arguments = self._arguments(*(values[name] for name in ROPE_ARGUMENTS))
        count = self._tokens(tile) * config.n_kv_heads
        return self._split(self._kernels.rope(self._cache.bits), arguments, count)

    def _attention(self, layer: int, tile: int, alone: bool) -> list[list[Task]]:
        """From rotated queries and the cache to `attended`, quantized: the phases of it."""
        quantize = self._quantize(self._buffers.attended, tile)
        if alone:
            rows = range(self._tokens(tile))
            parts = [task for row in rows for task in self._attend_one(layer, row)]
            return [parts, [task for row in rows for task in self._merge(row)], quantize]
        return [self._attend(layer, tile), quantize]

    def _attend(self, layer: int, tile: int) -> list[Task]:
        b, config = self._buffers, self._config
        values = self._attention_values(layer) | {
            "q_stride": b.q.stride,
            "out": b.attended.address,
            "kv_heads": config.n_kv_heads,
            "group": heads_in_group(config),
        }
        arguments = self._arguments(*(values[name] for name in ATTEND_ARGUMENTS))
        count = -(-self._tokens(tile) // tile) * config.n_heads
        return self._split(self._kernels.attend(tile, self._cache.bits), arguments, count)

    def _attend_one(self, layer: int, row: int) -> list[Task]:
        b, config = self._buffers, self._config
        values = self._attention_values(layer) | {
            "q": b.q.address + row * b.q.stride,
            "parts": b.parts.ctypes.data + row * b.part_bytes,
            "splits": b.splits,
            "state": b.row_states[row].ctypes.data,
        }
        arguments = self._arguments(*(values[name] for name in ATTEND_ONE_ARGUMENTS))
        count = config.n_kv_heads * b.splits
        kernel = self._kernels.attend_one(heads_in_group(config), self._cache.bits)
        return self._split(kernel, arguments, count)

    def _merge(self, row: int) -> list[Task]:
        b, config = self._buffers, self._config
        values = {
            "out": b.attended.address + row * b.attended.stride,
            "head_dim": config.head_dim,
            "group": heads_in_group(config),
            "parts": b.parts.ctypes.data + row * b.part_bytes,
            "splits": b.splits,
        }
        arguments = self._arguments(*(values[name] for name in MERGE_ARGUMENTS))
        return self._split(self._kernels.merge(), arguments, config.n_heads)

    def _attention_values(self, layer: int) -> dict[str, int]:
        b, config = self._buffers, self._config
        return {
            "q": b.q.address,
            "head_dim": config.head_dim,
            "k_cache": self._cache.keys(layer),
            "v_cache": self._cache.values(layer),
            "capacity": self._cache.capacity,
            "scale": _float_bits(config.scale),
            "scratch": b.scratch.ctypes.data,
            "scratch_bytes": b.scratch_bytes,
            "state": b.state.ctypes.data,
            "window": self._kinds[layer].window or 0,
            "softcap": _float_bits(config.attention_softcap or 0.0),
        }

    # ---- pieces

    def _vector(self, name: str) -> int:
        values = self._weights.vector(name)
        return 0 if values is None else values.ctypes.data

    @staticmethod
    def _arguments(*values: int) -> NDArray[np.int64]:
        return np.array(values, np.int64)

    def _split(
        self, kernel: int, arguments: NDArray[np.int64], count: int, share: float = 1.0
    ) -> list[Task]:
        """`count` units as tasks: a few for each thread, so that none waits long for another."""
        wanted = 1 if self._threads == 1 else round(self._threads * TASKS_PER_THREAD * share)
        return split_tasks(kernel, arguments, count, wanted)
