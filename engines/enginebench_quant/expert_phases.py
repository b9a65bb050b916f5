"""A mixture of experts as phases of a program: routing, products with the chosen, joining.

Scores of the router, and what the shared expert yields (in `delta`), are there before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enginebench_models import ModelConfig
from enginebench_quant.buffers import Activations, Buffers, ExpertBuffers
from enginebench_quant.kernels.activations import BLOCK_BYTES
from enginebench_quant.kernels.arguments import (
    EXPERT_MATMUL_ARGUMENTS,
    JOIN_ARGUMENTS,
    ROUTE_ARGUMENTS,
)
from enginebench_quant.kernels.crew import Task
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.packed import PackedMatrix, PackedWeights

__all__ = ["ExpertPhases"]

Split = Callable[[int, NDArray[np.int64], int, float], list[Task]]


class ExpertPhases:
    """Of one model; `split` makes tasks of a kernel, its arguments, a count and a share."""

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedWeights,
        buffers: Buffers,
        own: ExpertBuffers,
        kernels: Kernels,
        split: Split,
    ) -> None:
        assert config.experts is not None
        self._config, self._experts, self._weights = config, config.experts, weights
        self._buffers, self._own, self._kernels, self._split = buffers, own, kernels, split

    def write(self, name: str, tile: int, tokens: int) -> list[list[Task]]:
        """The phases of the layer whose tensors begin with `name`, for up to `tokens` tokens."""
        own = self._own
        rows = self._buffers.normed.q8 if tile == 1 else own.rows.ctypes.data
        first = [self._task(self._kernels.route(), ROUTE_ARGUMENTS, self._route_values(), 1)]
        if tile != 1:
            first.append(self._quantized_rows(tokens))
        gate, up = ((self._matrix(name, part), getattr(own, part)) for part in ("gate", "up"))
        return [
            [task for tasks in first for task in tasks],
            [
                task
                for matrix, target in (gate, up)
                for task in self._product(matrix, self._normed(rows), target, tokens, 0.5)
            ],
            self._gate(tokens),
            self._product(self._matrix(name, "down"), self._inner(), own.found, tokens, 1.0),
            self._task(self._kernels.join(), JOIN_ARGUMENTS, self._join_values(name), tokens),
        ]

    def _matrix(self, name: str, part: str) -> PackedMatrix:
        return self._weights.matrix(f"{name}ffn_{part}_exps.weight")

    def _task(
        self,
        kernel: int,
        names: tuple[str, ...],
        values: dict[str, int],
        count: int,
        share: float = 1.0,
    ) -> list[Task]:
        arguments = np.array([values[name] for name in names], np.int64)
        return self._split(kernel, arguments, count, share)

    def _route_values(self) -> dict[str, int]:
        own = self._own
        return {
            "logits": own.scores.address,
            "stride": own.scores.stride,
            "experts": self._experts.count,
            "used": self._experts.used,
            "normalized": int(self._experts.normalized),
            "lists": own.lists.ctypes.data,
            "most": own.most,
            "weights": own.weights.ctypes.data,
            "state": self._buffers.state.ctypes.data,
        }

    def _quantized_rows(self, tokens: int) -> list[Task]:
        """`normed` once more, row by row."""
        b = self._buffers
        values = (b.normed.address, b.normed.stride, b.normed.n_blocks, self._own.rows.ctypes.data)
        arguments = np.array([*values, b.state.ctypes.data], np.int64)
        return self._split(self._kernels.quantize(1), arguments, tokens * b.normed.n_blocks, 1.0)

    def _normed(self, rows: int) -> tuple[int, Activations, int]:
        """Quantized rows, the same as floats, and how many assignments share a row."""
        return rows, self._buffers.normed, self._experts.used

    def _inner(self) -> tuple[int, Activations, int]:
        return self._own.gate.q8, self._own.gate, 1

    def _product(
        self,
        matrix: PackedMatrix,
        source: tuple[int, Activations, int],
        target: Activations,
        tokens: int,
        share: float,
    ) -> list[Task]:
        quantized, floats, per_row = source
        is_float = FORMATS[matrix.kind].activations == "float"
        values = {
            "weights": matrix.data.ctypes.data,
            "expert_bytes": matrix.expert_bytes,
            "group_bytes": matrix.group_bytes,
            "groups": matrix.groups,
            "steps": matrix.steps,
            "acts": floats.address if is_float else quantized,
            "row_bytes": floats.stride if is_float else floats.n_blocks * BLOCK_BYTES,
            "assignments_per_row": per_row,
            "out": target.address,
            "out_stride": target.stride,
            "lists": self._own.lists.ctypes.data,
            "experts": self._experts.count,
        }
        most = min(self._experts.count, tokens * self._experts.used)
        kernel = self._kernels.expert_matmul(matrix.kind)
        return self._task(kernel, EXPERT_MATMUL_ARGUMENTS, values, most * matrix.groups, share)

    def _gate(self, tokens: int) -> list[Task]:
        own = self._own
        values = (own.gate.address, own.up.address, own.gate.stride, own.gate.n_blocks, own.gate.q8)
        arguments = np.array([*values, own.lists.ctypes.data], np.int64)
        count = tokens * self._experts.used * own.gate.n_blocks
        return self._split(self._kernels.gate(1, self._config.activation), arguments, count, 1.0)

    def _join_values(self, name: str) -> dict[str, int]:
        b, own = self._buffers, self._own
        gate = self._weights.vector(f"{name}ffn_gate_inp_shexp.weight")
        return {
            "found": own.found.address,
            "stride": own.found.stride,
            "weights": own.weights.ctypes.data,
            "used": self._experts.used,
            "x": b.x.address,
            "columns": own.found.floats.shape[1],
            "shared": 0 if gate is None else b.delta.address,
            "gate": 0 if gate is None else gate.ctypes.data,
            "normed": b.normed.address,
            "state": b.state.ctypes.data,
        }
