"""A rank's part of a model, as a model: fewer heads, and tensors that are parts of the whole's.

Q, K, V, gate and up are cut by rows, what follows them (the output and down projections) by
columns, embedding and head by tokens of the vocabulary; norms and routers are whole everywhere.
Where there are fewer key heads than ranks, several ranks hold the same one.

A part of a file's tensor is a view: only its own bytes are ever read. The exception are columns
that cut through blocks of a quantized type; such a matrix is decoded first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from enginebench.errors import UsageError
from enginebench_models import GGMLType, Model, ModelConfig
from enginebench_models import Tensor as FileTensor
from enginebench_models.weights import Weights, expert_tensors, stacked

__all__ = ["Shard", "shard", "why_not_in"]

Bytes = NDArray[np.uint8]

_PART = re.compile(r"(?:blk\.\d+\.)?(?P<part>[a-z_]+?)(?:_exps|_shexp)?\.(?:weight|bias)")


@dataclass(frozen=True, slots=True)
class Shard(FileTensor):
    """A part of `whole`: from `first` on along `axis` (0: rows, -1: columns)."""

    whole: FileTensor | None = None
    axis: int = 0
    first: int = 0

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """The same part of values that have the whole's shape."""
        return values.narrow(self.axis, self.first, self.shape[self.axis])


def why_not_in(config: ModelConfig, count: int) -> str | None:
    """Why a model of this shape cannot be computed by `count` ranks; None if it can."""
    heads, kv_heads = config.n_heads, config.n_kv_heads
    if heads % count:
        return f"its {heads} heads cannot be dealt evenly; {_counts_that_fit(config)}"
    if kv_heads % count and count % kv_heads:
        return f"its {kv_heads} KV heads cannot be dealt or shared; {_counts_that_fit(config)}"
    for size in _inner_sizes(config):
        if size % count:
            return f"its inner size of {size} cannot be cut evenly; {_counts_that_fit(config)}"
    if config.vocab_size <= count * count:  # the last rank might be left without a token
        return f"its vocabulary has {config.vocab_size} tokens only"
    return None


def shard(model: Model, rank: int, count: int) -> Model:
    """Part `rank` of `count`; UsageError if the model cannot be cut so."""
    if count == 1:
        return model
    if reason := why_not_in(model.config, count):
        raise UsageError(f"{model.info.name} cannot run with tensor_parallel={count}: {reason}")
    cuts = _Cuts(model.config, rank, count)
    weights = Weights(cuts.part(tensor) for tensor in model.weights.values())
    return replace(model, config=cuts.config, weights=weights)


def _inner_sizes(config: ModelConfig) -> list[int]:
    if config.experts is None:
        return [config.intermediate_size]
    sizes = (config.experts.size, config.experts.shared_size)
    return [size for size in sizes if size is not None]


def _counts_that_fit(config: ModelConfig) -> str:
    fitting = [n for n in range(1, config.n_heads + 1) if _fits(config, n)]
    return f"tensor_parallel may be {', '.join(map(str, fitting))}"


def _fits(config: ModelConfig, count: int) -> bool:
    kv_heads = config.n_kv_heads
    dealt = not config.n_heads % count and not (kv_heads % count and count % kv_heads)
    return dealt and not any(size % count for size in _inner_sizes(config))


class _Cuts:
    """Which rows or columns of each tensor are this rank's."""

    def __init__(self, whole: ModelConfig, rank: int, count: int) -> None:
        self._rank, self._count = rank, count
        heads = whole.n_heads // count
        kv_heads = max(1, whole.n_kv_heads // count)
        first_kv = rank * whole.n_kv_heads // count
        own = -(-whole.vocab_size // count)
        size = whole.head_dim
        self.config = replace(whole, n_heads=heads, n_kv_heads=kv_heads)
        self._queries = slice(rank * heads * size, (rank + 1) * heads * size)
        self._keys = slice(first_kv * size, (first_kv + kv_heads) * size)
        self._tokens = slice(rank * own, min((rank + 1) * own, whole.vocab_size))

    def part(self, tensor: FileTensor) -> FileTensor:
        """This rank's part of `tensor`, or all of it."""
        if len(tensor.shape) == 3:
            parts = [self._part(expert, tensor.name) for expert in expert_tensors(tensor)]
            return stacked(tensor.name, parts, experts=True)
        return self._part(tensor, tensor.name)

    def _part(self, tensor: FileTensor, name: str) -> FileTensor:
        match = _PART.fullmatch(name)
        part = match["part"] if match is not None else name
        if part == "attn_q":
            return _rows(tensor, self._queries)
        if part in ("attn_k", "attn_v"):
            return _rows(tensor, self._keys)
        if part == "attn_output":
            return _columns(tensor, self._queries)
        if part in ("ffn_gate", "ffn_up"):
            return _rows(tensor, self._even(tensor.shape[0]))
        if part == "ffn_down":
            return _columns(tensor, self._even(tensor.shape[1]))
        if part in ("token_embd", "output"):
            return _rows(tensor, self._tokens)
        return tensor

    def _even(self, size: int) -> slice:
        own = size // self._count
        return slice(self._rank * own, (self._rank + 1) * own)


def _rows(tensor: FileTensor, rows: slice) -> FileTensor:
    if len(tensor.shape) == 1:
        return _columns(tensor, rows)
    shape = (rows.stop - rows.start, *tensor.shape[1:])

    def load() -> Bytes:
        return tensor.data[rows]

    return Shard(
        tensor.name, tensor.type, shape, load, tensor.release, whole=tensor, first=rows.start
    )


def _columns(tensor: FileTensor, columns: slice) -> FileTensor:
    type, shape = tensor.type, (*tensor.shape[:-1], columns.stop - columns.start)
    if columns.start % type.block_size or columns.stop % type.block_size:
        type, load = GGMLType.F32, partial(_decoded, tensor, columns)
    else:
        extent = slice(type.row_bytes(columns.start), type.row_bytes(columns.stop))
        load = partial(_cut, tensor, extent)
    facts = (tensor.name, type, shape, load, tensor.release)
    return Shard(*facts, whole=tensor, axis=-1, first=columns.start)


def _cut(tensor: FileTensor, extent: slice) -> Bytes:
    return tensor.data[:, extent]


def _decoded(tensor: FileTensor, columns: slice) -> Bytes:
    values = tensor.dequantize().reshape(-1, tensor.shape[-1])[:, columns]
    return np.ascontiguousarray(values).view(np.uint8)
