"""Tensors by their canonical (GGUF) names, whatever they come from: views on a file, or made up.

Nothing is read before `data` is asked for: for files it is a read-only view on the memory map,
for synthetic weights it is generated on each access.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from enginebench_models.dequantizers import dequantize
from enginebench_models.ggml_types import GGMLType

__all__ = ["Tensor", "Weights", "expert_tensors", "rows_of", "stacked"]


def _keep() -> None:
    """Nothing to give back."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `shape` in numpy order, a matrix is (out_features, in_features).

    `load` yields its bytes, flat or not. `release` tells the system that the pages behind them are
    not needed for now (after an engine has repacked them); they can be read again at any time.
    `parts` are what it is stacked from, where its bytes lie apart: reading them one by one saves
    the copy that `load` would make.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    load: Callable[[], NDArray[np.uint8]]
    release: Callable[[], None] = _keep
    parts: tuple[Tensor, ...] = ()

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes, (rows, bytes per row), read-only; a vector is one row."""
        view = self.load().reshape(-1, self.type.row_bytes(self.shape[-1]))
        view.flags.writeable = False
        return view

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.size // self.type.block_size * self.type.block_bytes

    def dequantize(self) -> NDArray[np.float32]:
        """The values as a fresh float32 array of `shape`."""
        return dequantize(self.data, self.type, self.shape)


def stacked(name: str, parts: Sequence[Tensor], *, experts: bool = False) -> Tensor:
    """Tensors of one type below each other; as `experts`, each keeps a dimension of its own."""
    first = parts[0]
    if experts:
        shape: tuple[int, ...] = (len(parts), *first.shape)
    else:
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])

    def load() -> NDArray[np.uint8]:
        return np.concatenate([part.data for part in parts])

    def release() -> None:
        for part in parts:
            part.release()

    return Tensor(name, first.type, shape, load, release, tuple(parts))


def rows_of(tensor: Tensor, name: str, begin: int, end: int) -> Tensor:
    """Some rows of a matrix as a tensor of its own; a view, and the pages are shared."""

    def load() -> NDArray[np.uint8]:
        return tensor.data[begin:end]

    return replace(tensor, name=name, shape=(end - begin, *tensor.shape[1:]), load=load, parts=())


def expert_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Each expert's matrix of a tensor (experts, rows, columns); no copy is made.

    Where they share pages, these are given back with the last one.
    """
    if tensor.parts:
        yield from tensor.parts
        return
    count, rows, columns = tensor.shape
    flat = replace(tensor, shape=(count * rows, columns), release=_keep)
    for number in range(count):
        own = rows_of(flat, f"{tensor.name}[{number}]", number * rows, (number + 1) * rows)
        yield own if number + 1 < count else replace(own, release=tensor.release)


class Weights(Mapping[str, Tensor]):
    """All tensors of a model. An unknown name is a KeyError; `get` gives None for optional ones."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.size for tensor in self.values())

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.values())

    def count_by_type(self) -> Counter[GGMLType]:
        """How many tensors there are of each type."""
        return Counter(tensor.type for tensor in self.values())

    @property
    def matrix_types(self) -> tuple[str, ...]:
        """The names of the types that its matrices have, each once, in order."""
        return tuple(
            sorted({tensor.type.name for tensor in self.values() if len(tensor.shape) > 1})
        )

    @property
    def main_type(self) -> GGMLType:
        """The type that holds most of the values."""
        values: Counter[GGMLType] = Counter()
        for tensor in self.values():
            values[tensor.type] += tensor.size
        return values.most_common(1)[0][0]
