"""Importance matrices: for each column of a weight, how large what it is multiplied with is.

Kept as llama.cpp keeps them since 2025, in GGUF: for a tensor NAME the sums of squared inputs
`NAME.in_sum2` (1, columns) and how many there were, `NAME.counts` (1, 1). Knows no model: who fills
one is `enginebench_quant.importance`, who reads one `conversion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf import GGUFValue, read_gguf
from enginebench_models.gguf_writer import write_gguf
from enginebench_models.weights import Tensor

__all__ = ["InputSums", "read_importance", "write_imatrix"]

Floats = NDArray[np.float32]
_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True)
class InputSums:
    """Of one tensor: squared inputs, summed for each column, and the number of inputs."""

    squares: NDArray[np.float64]  # (columns,)
    count: int


def write_imatrix(
    path: Path, sums: Mapping[str, InputSums], *, dataset: str, chunks: int, chunk_tokens: int
) -> None:
    """A whole file or none. `dataset`: what text it was, `chunks` of `chunk_tokens` each."""
    metadata: dict[str, GGUFValue] = {
        "general.type": "imatrix",
        "imatrix.datasets": [dataset],
        "imatrix.chunk_count": chunks,
        "imatrix.chunk_size": chunk_tokens,
    }
    tensors = []
    for name, found in sorted(sums.items()):
        tensors.append(_tensor(f"{name}{_SUMS}", found.squares.astype(np.float32)[None]))
        tensors.append(_tensor(f"{name}{_COUNTS}", np.array([[found.count]], np.float32)))
    write_gguf(path, metadata, tensors)


def read_importance(path: Path) -> dict[str, Floats]:
    """Mean squared input of each column, by tensor name; those without any input are left out."""
    file = read_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        raise ModelError(f"{path}: is a GGUF file, but no importance matrix (general.type)")
    found = {}
    for name, tensor in file.tensors.items():
        if not name.endswith(_SUMS):
            continue
        base = name.removesuffix(_SUMS)
        counts = file.tensors.get(f"{base}{_COUNTS}")
        if counts is None:
            raise ModelError(f"{path}: tensor {name!r} has no {base}{_COUNTS}")
        if tensor.type is not GGMLType.F32 or counts.type is not GGMLType.F32:
            raise ModelError(f"{path}: tensor {name!r} and its counts must be F32")
        squares, count = tensor.dequantize(), counts.dequantize().reshape(-1, 1)
        if len(count) != 1 or squares.size != squares.shape[-1]:
            raise ModelError(
                f"{path}: tensor {name!r} is of several experts, which is not read yet"
            )
        if not np.isfinite(squares).all() or (squares < 0).any() or not np.isfinite(count).all():
            raise ModelError(f"{path}: tensor {name!r} holds what no sum of squares can be")
        if count[0, 0] > 0 and squares.any():
            found[base] = (squares.ravel() / count[0, 0]).astype(np.float32)
    if not found:
        raise ModelError(f"{path}: holds no importance of any tensor")
    return found


def _tensor(name: str, values: Floats) -> Tensor:
    data = np.ascontiguousarray(values).view(np.uint8)
    return Tensor(name, GGMLType.F32, values.shape, load=lambda: data.reshape(-1))
