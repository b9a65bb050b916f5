"""A model's matrices, repacked for the kernels; vectors as padded floats.

The file's pages are given back as soon as a matrix is packed, so that the weights are in memory
once. Rows of queries and keys that pair adjacent elements are permuted to halves on the way: the
kernels know one kind of rotation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models import Model, ModelConfig, Tensor
from enginebench_quant.kernels.features import CpuLevel
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.kernels.layout import pack, packed_shape
from enginebench_quant.memory import Arena

__all__ = ["PackedMatrix", "PackedWeights", "padded_columns"]

COLUMN_PADDING = 32


def padded_columns(columns: int) -> int:
    """Floats in a row of activations: whole blocks, whole vectors."""
    return -(-columns // COLUMN_PADDING) * COLUMN_PADDING


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix as the kernels read it; `data` has the shape (groups, steps, bytes of a step)."""

    kind: str
    data: NDArray[np.uint8]

    @property
    def groups(self) -> int:
        return int(self.data.shape[0])

    @property
    def steps(self) -> int:
        return int(self.data.shape[1])

    @property
    def group_bytes(self) -> int:
        return int(self.data.shape[1] * self.data.shape[2])


def _is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2


def _halves_order(heads: int, head_dim: int) -> NDArray[np.intp]:
    """Row order that brings pairs (0, 1), (2, 3) ... of each head to (0, d/2), (1, d/2 + 1) ..."""
    within = np.arange(head_dim).reshape(-1, 2).T.ravel()
    return (np.arange(heads)[:, None] * head_dim + within).ravel()


class PackedWeights:
    """All weights that the kernels read, by their canonical names.

    The embedding table is packed only if it is also the output head; rows of it are looked up in
    the file.
    """

    def __init__(self, model: Model, level: CpuLevel) -> None:
        self._config = model.config
        self._lanes = level.lanes
        tensors = [t for t in model.weights.values() if self._is_read(t)]
        _check_types(tensors)
        matrices = [tensor for tensor in tensors if _is_matrix(tensor)]
        arena = Arena(sum(Arena.padded(int(np.prod(self._shape(t)))) for t in matrices))
        self._matrices = {tensor.name: self._pack(tensor, arena) for tensor in matrices}
        self._vectors = {t.name: self._pad(t) for t in tensors if not _is_matrix(t)}

    def matrix(self, name: str) -> PackedMatrix:
        return self._matrices[name]

    def vector(self, name: str) -> NDArray[np.float32] | None:
        """A norm or bias as floats, padded with zeros to whole blocks; None if there is none."""
        return self._vectors.get(name)

    @property
    def head(self) -> PackedMatrix:
        """The output head: the embedding table if the two are tied."""
        return self._matrices.get("output.weight") or self._matrices["token_embd.weight"]

    @property
    def matrices(self) -> Iterable[PackedMatrix]:
        return self._matrices.values()

    def _is_read(self, tensor: Tensor) -> bool:
        if tensor.name == "token_embd.weight":
            return self._config.tie_word_embeddings
        return not tensor.name.startswith("rope_")

    def _shape(self, tensor: Tensor) -> tuple[int, int, int]:
        rows, columns = tensor.shape
        return packed_shape(tensor.type.name, rows, columns, self._lanes)

    def _pack(self, tensor: Tensor, arena: Arena) -> PackedMatrix:
        shape = self._shape(tensor)
        out = arena.take(int(np.prod(shape))).reshape(shape)
        data = tensor.data
        order = self._row_order(tensor.name)
        pack(tensor.type.name, data if order is None else data[order], self._lanes, out)
        tensor.release()
        return PackedMatrix(tensor.type.name, out)

    def _pad(self, tensor: Tensor) -> NDArray[np.float32]:
        values = tensor.dequantize()
        order = self._row_order(tensor.name)
        if order is not None:
            values = values[order]
        return np.pad(values, (0, padded_columns(values.size) - values.size))

    def _row_order(self, name: str) -> NDArray[np.intp] | None:
        """How rows of a query or key tensor are permuted; None: as they are."""
        return _row_order(self._config, name)


def _row_order(config: ModelConfig, name: str) -> NDArray[np.intp] | None:
    if config.rope_pairs == "halves" or ".attn_" not in name:
        return None
    heads = {
        "attn_q": config.n_heads,
        "attn_k": config.n_kv_heads,
        "attn_q_norm": 1,
        "attn_k_norm": 1,
    }.get(name.split(".")[2])
    return None if heads is None else _halves_order(heads, config.head_dim)


def _check_types(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        if _is_matrix(tensor) and tensor.type.name not in FORMATS:
            raise ModelError(
                f"quant: tensor {tensor.name!r} is {tensor.type.name}, which has no CPU kernel "
                f"(there are: {', '.join(FORMATS)}); requantize the model to one of these"
            )
