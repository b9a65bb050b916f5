"""The launches of a chunk of prompt through all layers: matrices expanded, products by the library.

The span's count of the chunk's tokens are real; what lies beyond them is computed and never read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from enginebench_quant.gpu.state import MAX_CHUNK_TOKENS
from enginebench_quant.gpu.weights import LayerWeights, Matrix, matrix_shape
from enginebench_quant.kernels.gpu.planes import Planes

if TYPE_CHECKING:
    from enginebench_quant.gpu.program import Program

__all__ = ["Chunk"]


class Chunk:
    """Up to MAX_CHUNK_TOKENS tokens; `xs` is their residual stream, before and after."""

    def __init__(self, program: Program) -> None:
        self._program, self._ops = program, program.ops
        self._config = c = program.config
        half = torch.float16
        wide = torch.bfloat16 if program.device.type == "cuda" else torch.float32
        q_size, kv_size = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim

        def zeros(*shape: int, dtype: torch.dtype = wide) -> Tensor:
            return torch.zeros((MAX_CHUNK_TOKENS, *shape), dtype=dtype, device=program.device)

        self.xs = zeros(c.hidden_size, dtype=torch.float32)
        self._normed = zeros(c.hidden_size)
        self._qkvs = zeros(q_size + 2 * kv_size)
        self._queries = zeros(c.n_heads, c.head_dim, dtype=half)
        self._attendeds = zeros(c.n_heads, c.head_dim)
        self._gate_ups = zeros(2 * c.intermediate_size)
        self._inners = zeros(c.intermediate_size)
        self._deltas = zeros(c.hidden_size)
        largest = max(_size(m) for layer in program.weights.layers for m in layer.matrices)
        self._expanded = torch.zeros(largest, dtype=wide, device=program.device)

    def run(self, tokens: int) -> None:
        """The first `tokens` of the chunk, from their embeddings where this device has them.

        The last real token's residual stream is left in the step of one token, for its head.
        """
        p, eps = self._program, self._config.rms_norm_eps
        xs, deltas = self.xs[:tokens], self._deltas[:tokens]
        if p.weights.embedding is not None:
            p.embed(p.state.chunk[:tokens], xs)
        delta: Tensor | None = None
        for index, layer in enumerate(p.weights.layers):
            self._ops.add_rms_norm(xs, delta, layer.attention_norm, eps, self._normed[:tokens])
            self._attend(tokens, index, layer)
            attended = self._attendeds[:tokens].flatten(1)
            self._multiply(attended, (layer.output,), deltas)
            delta = self._joined(xs, deltas, layer.post_attention_norm)
            self._ops.add_rms_norm(xs, delta, layer.ffn_norm, eps, self._normed[:tokens])
            self._feed_forward(tokens, layer)
            delta = self._joined(xs, deltas, layer.post_ffn_norm)
        if delta is not None:
            self._ops.add_rms_norm(xs, delta, None, 0.0, None)
        last = p.state.span[1:] - 1
        p.step.x.copy_(xs.index_select(0, last))

    def _joined(self, xs: Tensor, deltas: Tensor, norm: Tensor | None) -> Tensor | None:
        """What is still to be added; nothing where a norm comes between."""
        if norm is None:
            return deltas
        self._ops.norm_add(xs, deltas, norm, self._config.rms_norm_eps)
        return None

    def _feed_forward(self, tokens: int, w: LayerWeights) -> None:
        gate_ups, inners = self._gate_ups[:tokens], self._inners[:tokens]
        self._multiply(self._normed[:tokens], w.gate_up, gate_ups)
        self._ops.gate_mul(gate_ups, inners, activation=self._config.activation)
        self._multiply(inners, (w.down,), self._deltas[:tokens])

    def _attend(self, tokens: int, index: int, w: LayerWeights) -> None:
        p, qkvs, queries = self._program, self._qkvs[:tokens], self._queries[:tokens]
        self._multiply(self._normed[:tokens], w.qkv, qkvs)
        caches = self._opened(index)
        self._ops.rope_and_cache(
            qkvs, p.state.span, p.cos_sin[index], *caches, queries,
            bias=w.qkv_bias, q_norm=w.q_norm, k_norm=w.k_norm, eps=self._config.rms_norm_eps,
        )  # fmt: skip
        self._rounded(index, tokens)
        out = self._attendeds[:tokens]
        self._ops.prefill_attention(queries, p.state.span, *caches, out, sight=p.sights[index])

    def _opened(self, index: int) -> tuple[Tensor, Tensor]:
        """A layer's cache in f16, where the chunk's own rows go as well."""
        cache, scales = self._program.cache, self._program.cache.scales[index]
        if scales is None or cache.workspace is None:
            return cache.keys[index], cache.values[index]
        codes = cache.keys[index], cache.values[index]
        for own, scale, plain in zip(codes, scales, cache.workspace, strict=True):
            self._ops.expand_rows(own, scale, self._program.state.span[:1], plain)
        return cache.workspace

    def _rounded(self, index: int, tokens: int) -> None:
        """The chunk's rows go into a cache that is quantized, and are read as they are there."""
        cache, scales = self._program.cache, self._program.cache.scales[index]
        if scales is None or cache.workspace is None:
            return
        codes = cache.keys[index], cache.values[index]
        for own, scale, plain in zip(codes, scales, cache.workspace, strict=True):
            self._ops.round_rows(plain, self._program.state.span, own, scale, tokens)

    def _multiply(self, x: Tensor, matrices: tuple[Matrix, ...], out: Tensor) -> None:
        """The library's product, with packed matrices expanded to bf16 just before it."""
        begin = 0
        for matrix in matrices:
            rows, columns = matrix_shape(matrix)
            wide = self._expanded[: rows * columns].view(rows, columns)
            if isinstance(matrix, Planes):
                self._ops.expand(matrix, wide)
            else:
                wide = matrix if matrix.dtype == wide.dtype else wide.copy_(matrix)
            if len(matrices) == 1:
                torch.mm(x, wide.t(), out=out)
            else:
                out[:, begin : begin + rows] = torch.mm(x, wide.t())
            begin += rows


def _size(matrix: Matrix) -> int:
    rows, columns = matrix_shape(matrix)
    return rows * columns
