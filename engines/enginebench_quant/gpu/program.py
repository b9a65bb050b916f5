"""The launches of a forward pass: one token, a chunk of prompt, the choice of the next token.

Every method only launches; what varies (tokens, positions, settings) is read on the device. So each
can be captured in a CUDA graph once and replayed for any request. Buffers are allocated once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from enginebench_models import ModelConfig
from enginebench_quant.gpu.weights import LayerWeights, Matrix, Weights, matrix_shape
from enginebench_quant.kernels.gpu import ops
from enginebench_quant.kernels.gpu.planes import Planes
from enginebench_quant.kernels.gpu.vector import (
    PACKED_HEADS,
    Int8Vector,
    empty_vector,
    packs_inner,
)

__all__ = ["MAX_CHUNK_TOKENS", "Program", "State"]

MAX_CHUNK_TOKENS = 512
_TILE_TOKENS = 1024  # of logits, as `choose` cuts them


@dataclass(frozen=True, slots=True)
class State:
    """What a request is, on the device."""

    token_and_position: Tensor  # (2,) i32: the last token, and its position
    span: Tensor  # (2,) i32: first position and count of the chunk
    chunk: Tensor  # (MAX_CHUNK_TOKENS,) i32
    settings: Tensor  # (4,) f32: temperature, repetition, presence, frequency penalty
    filters: Tensor  # (3,) f32: top-k, top-p, min-p
    bar: Tensor  # (1,) f32: scaled logits below it are out
    seed: Tensor  # (1,) i64
    seen: Tensor  # (V,) i32: 1 for tokens of the context
    counts: Tensor  # (V,) i32: how often each was generated

    @classmethod
    def empty(cls, vocab_size: int, device: torch.device) -> State:
        """A request of nothing."""

        def zeros(size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        return cls(
            token_and_position=zeros(2, torch.int32),
            span=zeros(2, torch.int32),
            chunk=zeros(MAX_CHUNK_TOKENS, torch.int32),
            settings=torch.tensor([0.0, 1.0, 0.0, 0.0], device=device),
            filters=torch.tensor([0.0, 1.0, 0.0], device=device),
            bar=torch.full((1,), -torch.inf, device=device),
            seed=zeros(1, torch.int64),
            seen=zeros(vocab_size, torch.int32),
            counts=zeros(vocab_size, torch.int32),
        )


class Program:
    """A model's launches over its weights, caches and buffers."""

    def __init__(
        self, config: ModelConfig, weights: Weights, context: int, device: torch.device
    ) -> None:
        self.config, self.weights, self.device = config, weights, device
        self.state = State.empty(config.vocab_size, device)
        self._ops = ops.kernels(device.type)
        shape = (config.n_kv_heads, context, config.head_dim)
        layers, half = range(config.n_layers), torch.float16
        self.k_caches = [self._zeros(*shape, dtype=half) for _ in layers]
        self.v_caches = [self._zeros(*shape, dtype=half) for _ in layers]
        self._cos_sin = _angles(config, context).to(device)
        self._make_decode_buffers(context)
        self._make_chunk_buffers()

    @property
    def cache_bytes(self) -> int:
        return sum(cache.nbytes for cache in (*self.k_caches, *self.v_caches))

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _make_decode_buffers(self, context: int) -> None:
        c = self.config
        q_size, kv_size = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        self._x = self._zeros(c.hidden_size)
        self._qkv = self._zeros(q_size + 2 * kv_size)
        self._attended = self._zeros(q_size)
        self._packed_attended = _packed(q_size, c.head_dim in PACKED_HEADS, self.device)
        self._gate_up = self._zeros(2 * c.intermediate_size)
        self._inner = self._zeros(c.intermediate_size)
        packs = packs_inner(c.intermediate_size, self.device)
        self._packed_inner = _packed(c.intermediate_size, packs, self.device)
        self.logits = self._zeros(c.vocab_size)
        self._scaled = self._zeros(c.vocab_size)
        tiles = -(-c.vocab_size // _TILE_TOKENS)
        self._scratch = (
            self._zeros(tiles),
            self._zeros(tiles, dtype=torch.int32),
            self._zeros(1, dtype=torch.int32),
        )
        sizes = (c.n_heads, c.n_kv_heads, c.head_dim, context)
        self._workspace = ops.workspace(*sizes, device=self.device)

    def _make_chunk_buffers(self) -> None:
        c, tokens = self.config, MAX_CHUNK_TOKENS
        half = torch.float16
        wide = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        q_size, kv_size = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        heads = (tokens, c.n_heads, c.head_dim)
        self._xs = self._zeros(tokens, c.hidden_size)
        self._normed = self._zeros(tokens, c.hidden_size, dtype=wide)
        self._qkvs = self._zeros(tokens, q_size + 2 * kv_size, dtype=wide)
        self._queries = self._zeros(*heads, dtype=half)
        self._attendeds = self._zeros(*heads, dtype=wide)
        self._gate_ups = self._zeros(tokens, 2 * c.intermediate_size, dtype=wide)
        self._inners = self._zeros(tokens, c.intermediate_size, dtype=wide)
        self._deltas = self._zeros(tokens, c.hidden_size, dtype=wide)
        largest = max(_size(m) for layer in self.weights.layers for m in layer.matrices)
        self._expanded = self._zeros(largest, dtype=wide)

    # ---- one token

    def embed(self) -> None:
        """The last token's embedding becomes the residual stream."""
        self._embed(self.state.token_and_position[:1], self._x[None])

    def layers(self) -> None:
        """One token at its position through all layers; its key and value are cached."""
        for index, layer in enumerate(self.weights.layers):
            self._layer(index, layer)

    def head(self) -> None:
        """Logits of the residual stream."""
        self._product(self._x, (self.weights.head,), self.logits, norm=self.weights.output_norm)

    def filter(self) -> None:
        """The bar that top-k, top-p and min-p set; sorts, so it is only run when one is on."""
        state = self.state
        self._ops.scaled_logits(self.logits, state.seen, state.counts, state.settings, self._scaled)
        state.bar.copy_(lowest_kept(self._scaled, state.filters))

    def choose(self) -> None:
        """The next token and its position become the state."""
        s = self.state
        self._ops.choose(
            self.logits, s.seen, s.counts, s.settings, s.bar, s.seed, s.token_and_position,
            self._scratch,
        )  # fmt: skip

    def _layer(self, index: int, w: LayerWeights) -> None:
        eps = self.config.rms_norm_eps
        self._product(self._x, w.qkv, self._qkv, norm=w.attention_norm, bias=w.qkv_bias)
        attended = _taken(w.output, self._packed_attended, self._attended)
        self._ops.decode_attention(
            self._qkv, self.state.token_and_position[1:], self._cos_sin, self.k_caches[index],
            self.v_caches[index], attended, self._workspace,
            q_norm=w.q_norm, k_norm=w.k_norm, eps=eps,
        )  # fmt: skip
        self._product(attended, (w.output,), self._x, add=True)
        inner = self._feed_forward(w)
        self._product(inner, (w.down,), self._x, add=True)

    def _feed_forward(self, w: LayerWeights) -> Tensor | Int8Vector:
        """What the down projection takes."""
        size = self.config.intermediate_size
        first, last = w.gate_up[0], w.gate_up[-1]
        if isinstance(first, Planes) and isinstance(last, Planes):
            if len(w.gate_up) == 1:
                first, last = first.slice(0, size), first.slice(size, 2 * size)
            inner = _taken(w.down, self._packed_inner, self._inner)
            eps = self.config.rms_norm_eps
            self._ops.gate_up(self._x, first, last, inner, norm=w.ffn_norm, eps=eps)
            return inner
        self._product(self._x, w.gate_up, self._gate_up, norm=w.ffn_norm)
        self._ops.silu_mul(self._gate_up[None], self._inner[None])
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
        eps, begin = self.config.rms_norm_eps, 0
        for group in _launches(matrices):
            rows = sum(matrix_shape(matrix)[0] for matrix in group)
            part = slice(begin, begin + rows)
            own_bias = None if bias is None else bias[part]
            packed = isinstance(group[0], Planes)
            multiply = self._ops.product if packed else self._ops.dense_product
            target = group if packed else group[0]
            multiply(x, target, out[part], norm=norm, eps=eps, bias=own_bias, add=add)
            begin += rows

    def _embed(self, ids: Tensor, out: Tensor) -> None:
        table = self.weights.embedding
        if isinstance(table, Planes):
            self._ops.expand(table, out, ids=ids)
        else:
            out.copy_(table.index_select(0, ids))

    # ---- a chunk of prompt

    def chunk(self, tokens: int) -> None:
        """The first `tokens` of the chunk, of which the span's count are real, through all layers.

        The last real token's residual stream is left where `head` looks for it.
        """
        xs, normed = self._xs[:tokens], self._normed[:tokens]
        deltas = self._deltas[:tokens]
        self._embed(self.state.chunk[:tokens], xs)
        delta: Tensor | None = None
        for index, layer in enumerate(self.weights.layers):
            self._add_norm(xs, delta, layer.attention_norm, normed)
            self._attend_chunk(tokens, index, layer)
            self._multiply(self._attendeds[:tokens].flatten(1), (layer.output,), deltas)
            self._add_norm(xs, deltas, layer.ffn_norm, normed)
            self._multiply(normed, layer.gate_up, self._gate_ups[:tokens])
            self._ops.silu_mul(self._gate_ups[:tokens], self._inners[:tokens])
            self._multiply(self._inners[:tokens], (layer.down,), deltas)
            delta = deltas
        self._ops.add_rms_norm(xs, deltas, None, 0.0, None)
        last = self.state.span[1:] - 1
        self._x.copy_(xs.index_select(0, last)[0])

    def _add_norm(self, xs: Tensor, delta: Tensor | None, weight: Tensor, out: Tensor) -> None:
        self._ops.add_rms_norm(xs, delta, weight, self.config.rms_norm_eps, out)

    def _attend_chunk(self, tokens: int, index: int, w: LayerWeights) -> None:
        qkvs, queries = self._qkvs[:tokens], self._queries[:tokens]
        caches = self.k_caches[index], self.v_caches[index]
        self._multiply(self._normed[:tokens], w.qkv, qkvs)
        self._ops.rope_and_cache(
            qkvs, self.state.span, self._cos_sin, *caches, queries,
            bias=w.qkv_bias, q_norm=w.q_norm, k_norm=w.k_norm, eps=self.config.rms_norm_eps,
        )  # fmt: skip
        self._ops.prefill_attention(queries, self.state.span, *caches, self._attendeds[:tokens])

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


def lowest_kept(x: Tensor, filters: Tensor) -> Tensor:
    """The least of the scaled logits x (V,) that the filters keep, (1,).

    In the usual order: top-k, top-p over what top-k left, min-p against the likeliest, which
    always stays.
    """
    top_k, top_p, min_p = filters.unbind()
    ordered = torch.sort(x, descending=True).values
    rank = torch.arange(x.shape[0], device=x.device)
    mass = torch.exp(ordered - ordered[0])
    mass = torch.where((rank < top_k) | (top_k <= 0), mass, 0.0)
    before = mass.double().cumsum(0) - mass
    kept = (mass > 0) & (before < top_p * mass.double().sum()) & (mass >= min_p)
    kept |= rank == 0
    return torch.where(kept, ordered, torch.inf).amin(0, keepdim=True)


def _packed(columns: int, wanted: bool, device: torch.device) -> Int8Vector | None:
    return empty_vector(columns, device) if wanted else None


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


def _size(matrix: Matrix) -> int:
    rows, columns = matrix_shape(matrix)
    return rows * columns


def _angles(config: ModelConfig, context: int) -> Tensor:
    """Cosines, then sines, of every position: (context, head_dim) f32."""
    frequencies = torch.from_numpy(config.inverse_frequencies())
    angles = torch.arange(context, dtype=torch.float64)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), -1).float()
