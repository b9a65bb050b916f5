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
from enginebench_models.weights import expert_tensors
from enginebench_quant.kernels.arguments import PACK_ARGUMENTS
from enginebench_quant.kernels.crew import TASKS_PER_THREAD, Crew, Program, split_tasks
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.kernels.layout import packed_shape
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.memory import Arena

__all__ = ["PackedMatrix", "PackedWeights", "padded_columns"]

COLUMN_PADDING = 32


def padded_columns(columns: int) -> int:
    """Floats in a row of activations: whole blocks, whole vectors."""
    return -(-columns // COLUMN_PADDING) * COLUMN_PADDING


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix as the kernels read it; `data` has the shape (groups, steps, bytes of a step).

    Those of a layer's `experts` follow each other, each of as many groups.
    """

    kind: str
    data: NDArray[np.uint8]
    experts: int = 1

    @property
    def groups(self) -> int:
        return int(self.data.shape[0]) // self.experts

    @property
    def expert_bytes(self) -> int:
        return self.groups * self.group_bytes

    @property
    def steps(self) -> int:
        return int(self.data.shape[1])

    @property
    def group_bytes(self) -> int:
        return int(self.data.shape[1] * self.data.shape[2])


def _is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) > 1


def _experts(tensor: Tensor) -> int:
    return tensor.shape[0] if len(tensor.shape) == 3 else 1


def _halves_order(heads: int, head_dim: int) -> NDArray[np.int64]:
    """Row order that brings pairs (0, 1), (2, 3) ... of each head to (0, d/2), (1, d/2 + 1) ..."""
    within = np.arange(head_dim, dtype=np.int64).reshape(-1, 2).T.ravel()
    return (np.arange(heads, dtype=np.int64)[:, None] * head_dim + within).ravel()


class PackedWeights:
    """All weights that the kernels read, by their canonical names.

    The embedding table is packed only if it is also the output head; rows of it are looked up in
    the file. Matrices have their addresses at once but are empty until `fill`, so that what needs
    memory only for a while (compiling) can come between.
    """

    def __init__(self, model: Model, kernels: Kernels) -> None:
        self._config = model.config
        self._lanes = kernels.level.lanes
        tensors = [t for t in model.weights.values() if self._is_read(t)]
        _check_types(tensors)
        self._sources = {tensor.name: tensor for tensor in tensors if _is_matrix(tensor)}
        sizes = [int(np.prod(self._shape(tensor))) for tensor in self._sources.values()]
        arena = Arena(sum(map(Arena.padded, sizes)))
        self._matrices = {n: self._reserve(t, arena) for n, t in self._sources.items()}
        self._kernels = {matrix.kind: kernels.pack(matrix.kind) for matrix in self.matrices}
        self._vectors = {t.name: self._pad(t) for t in tensors if not _is_matrix(t)}

    def fill(self, crew: Crew) -> None:
        """Pack every matrix; the file's pages are given back one matrix after the other."""
        for name, tensor in self._sources.items():
            packed = self._matrices[name]
            if len(tensor.shape) == 2:
                self._pack(tensor, packed, crew)
            else:
                targets = np.split(packed.data, packed.experts)
                for expert, target in zip(expert_tensors(tensor), targets, strict=True):
                    self._pack(expert, PackedMatrix(packed.kind, target), crew)
            tensor.release()
        self._sources.clear()

    def matrix(self, name: str) -> PackedMatrix:
        return self._matrices[name]

    def vector(self, name: str) -> NDArray[np.float32] | None:
        """A norm or bias as floats, padded with zeros to whole blocks; None if there is none."""
        return self._vectors.get(name)

    @property
    def has_head(self) -> bool:
        """Whether the model ends here."""
        return "output_norm.weight" in self._vectors

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
        rows, columns = tensor.shape[-2:]
        groups, steps, n_bytes = packed_shape(tensor.type.name, rows, columns, self._lanes)
        return groups * _experts(tensor), steps, n_bytes

    def _reserve(self, tensor: Tensor, arena: Arena) -> PackedMatrix:
        shape = self._shape(tensor)
        data = arena.take(int(np.prod(shape))).reshape(shape)
        return PackedMatrix(tensor.type.name, data, _experts(tensor))

    def _pack(self, tensor: Tensor, packed: PackedMatrix, crew: Crew) -> None:
        data, order = tensor.data, _row_order(self._config, tensor.name)
        values = {
            "source": data.ctypes.data,
            "row_bytes": data.shape[1],
            "rows": tensor.shape[0],
            "columns": tensor.shape[1],
            "order": 0 if order is None else order.ctypes.data,
            "out": packed.data.ctypes.data,
            "steps": packed.steps,
        }
        arguments = np.array([values[name] for name in PACK_ARGUMENTS], np.int64)
        kernel, wanted = self._kernels[packed.kind], crew.threads * TASKS_PER_THREAD
        crew.run(Program([split_tasks(kernel, arguments, packed.groups, wanted)]))

    def _pad(self, tensor: Tensor) -> NDArray[np.float32]:
        values = tensor.dequantize()
        order = _row_order(self._config, tensor.name)
        if order is not None:
            values = values[order]
        return np.pad(values, (0, padded_columns(values.size) - values.size))


def _row_order(config: ModelConfig, name: str) -> NDArray[np.int64] | None:
    """How rows of a query or key tensor are permuted; None: as they are."""
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
