"""The launches of a few tokens of one sequence, one after the other in it, through all layers.

With one row that is a step of decoding. With more, weights are read once for all rows, and each row
gets, bit for bit, what it would get alone: that is how guesses are verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from enginebench_quant.gpu.weights import LayerWeights, Matrix, matrix_shape
from enginebench_quant.kernels.gpu.planes import Planes
from enginebench_quant.kernels.gpu.vector import (
    PACKED_HEADS,
    Int8Vector,
    empty_vector,
    packs_inner,
)

if TYPE_CHECKING:
    from enginebench_quant.gpu.program import Program

__all__ = ["Step"]


class Step:
    """`rows` tokens at `positions`, a tensor that is read when a launch runs."""

    def __init__(self, program: Program, rows: int, tokens: Tensor, positions: Tensor) -> None:
        self._program, self._ops = program, program.ops
        self._config, self._fused = program.config, program.techniques.fused_ops
        self._tokens, self._positions = tokens, positions
        self.rows = rows
        c, device = self._config, program.device
        q_size, kv_size = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim

        def zeros(columns: int) -> Tensor:
            return torch.zeros((rows, columns), dtype=torch.float32, device=device)

        def packed(columns: int, wanted: bool) -> Int8Vector | None:
            return empty_vector(columns, device, rows) if wanted and self._fused else None

        self.x = zeros(c.hidden_size)
        self.logits = zeros(c.vocab_size)
        self._qkv = zeros(q_size + 2 * kv_size)
        self._attended = zeros(q_size)
        self._packed_attended = packed(q_size, c.head_dim in PACKED_HEADS)
        self._gate_up = zeros(2 * c.intermediate_size)
        self._inner = zeros(c.intermediate_size)
        self._packed_inner = packed(c.intermediate_size, packs_inner(c.intermediate_size, device))
        self._delta = zeros(c.hidden_size)
        self._normed = zeros(c.hidden_size)

    def run(self) -> None:
        """From tokens (where this device has the embedding, else from `x`) to logits."""
        if self._program.weights.embedding is not None:
            self._program.embed(self._tokens, self.x)
        for index, layer in enumerate(self._program.weights.layers):
            self._layer(index, layer)
        self.head()

    def head(self) -> None:
        """Logits of `x`."""
        weights, cap = self._program.weights, self._config.final_softcap
        self._product(self.x, (weights.head,), self.logits, norm=weights.output_norm)
        if cap is not None:
            self.logits.div_(cap).tanh_().mul_(cap)

    def _layer(self, index: int, w: LayerWeights) -> None:
        self._product(self.x, w.qkv, self._qkv, norm=w.attention_norm, bias=w.qkv_bias)
        attended = _taken(w.output, self._packed_attended, self._attended)
        self._attend(index, w, attended)
        self._join(attended, w.output, w.post_attention_norm)
        self._join(self._feed_forward(w), w.down, w.post_ffn_norm)

    def _attend(self, index: int, w: LayerWeights, out: Tensor | Int8Vector) -> None:
        """Row by row: each sees the keys of those before it."""
        p = self._program
        for row in range(self.rows):
            self._ops.decode_attention(
                self._qkv[row], self._positions[row : row + 1], p.cos_sin[index],
                p.cache.keys[index], p.cache.values[index],
                out.row(row) if isinstance(out, Int8Vector) else out[row], p.workspace,
                q_norm=w.q_norm, k_norm=w.k_norm, eps=self._config.rms_norm_eps,
                sight=p.sights[index], early=row == 0, scales=p.cache.scales[index],
            )  # fmt: skip

    def _join(self, x: Tensor | Int8Vector, matrix: Matrix, norm: Tensor | None) -> None:
        """A product into the residual stream, through a norm where the model has one."""
        if norm is None and self._fused:
            self._product(x, (matrix,), self.x, add=True)
            return
        self._product(x, (matrix,), self._delta)
        if norm is None:
            self.x += self._delta
        else:
            self._ops.norm_add(self.x, self._delta, norm, self._config.rms_norm_eps)

    def _feed_forward(self, w: LayerWeights) -> Tensor | Int8Vector:
        """What the down projection takes."""
        size, activation = self._config.intermediate_size, self._config.activation
        first, last = w.gate_up[0], w.gate_up[-1]
        if isinstance(first, Planes) and isinstance(last, Planes) and self._fused:
            if len(w.gate_up) == 1:
                first, last = first.slice(0, size), first.slice(size, 2 * size)
            inner = _taken(w.down, self._packed_inner, self._inner)
            self._ops.gate_up(
                self.x, first, last, inner, norm=w.ffn_norm, eps=self._config.rms_norm_eps,
                activation=activation,
            )  # fmt: skip
            return inner
        self._product(self.x, w.gate_up, self._gate_up, norm=w.ffn_norm)
        self._ops.gate_mul(self._gate_up, self._inner, activation=activation)
        return self._inner

    def _product(
        self,
        x: Tensor | Int8Vector,
        matrices: tuple[Matrix, ...],
        out: Tensor,
        *,
        norm: Tensor | None = None,
        bias: Tensor | None = None,
        add: bool = False,
    ) -> None:
        """Matrices below each other times x; two packed ones share a launch."""
        eps, begin = self._config.rms_norm_eps, 0
        if norm is not None and not self._fused:
            self._ops.add_rms_norm(x, None, norm, eps, self._normed)
            x, norm = self._normed, None
        for group in _launches(matrices):
            rows = sum(matrix_shape(matrix)[0] for matrix in group)
            part = slice(begin, begin + rows)
            own_bias = None if bias is None else bias[part]
            packed = isinstance(group[0], Planes)
            multiply = self._ops.product if packed else self._ops.dense_product
            target = group if packed else group[0]
            multiply(x, target, out[:, part], norm=norm, eps=eps, bias=own_bias, add=add)
            begin += rows


def _taken(matrix: Matrix, packed: Int8Vector | None, plain: Tensor) -> Tensor | Int8Vector:
    """The form in which the vector before `matrix` is best written."""
    return plain if packed is None or isinstance(matrix, torch.Tensor) else packed


def _launches(matrices: Sequence[Matrix]) -> Iterator[Sequence[Matrix]]:
    """Two packed matrices that follow each other share a launch; any other has its own."""
    rest = list(matrices)
    while rest:
        pair = len(rest) > 1 and all(isinstance(matrix, Planes) for matrix in rest[:2])
        count = 2 if pair else 1
        yield rest[:count]
        del rest[:count]
