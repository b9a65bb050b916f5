"""Reads safetensors files: tensors as views on the mapped file, nothing is loaded or converted.

Format: eight bytes of header length, a JSON header, then the data. Names stay as they are in the
file; what they mean is known to `hf_names`.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import msgspec

from enginebench.errors import ModelError
from enginebench_models.ggml_types import GGMLType
from enginebench_models.json_file import decode_json, read_json
from enginebench_models.mapped_file import MappedFile
from enginebench_models.weights import Tensor

__all__ = ["read_safetensors", "read_safetensors_folder", "weight_files"]

_TYPES = {"F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def weight_files(folder: Path) -> list[str]:
    """The files that hold the weights of a model folder, whether they are there or not."""
    index = folder / _INDEX
    if (folder / _SINGLE).is_file() or not index.is_file():
        return [_SINGLE]
    return sorted(set(read_json(index, _Index).weight_map.values()))


def read_safetensors_folder(folder: Path) -> list[Tensor]:
    """All tensors of a model folder, in one file or in the shards that its index names."""
    if (folder / _SINGLE).is_file():
        return read_safetensors(folder / _SINGLE)
    index = folder / _INDEX
    if not index.is_file():
        raise ModelError(f"{folder}: has neither {_SINGLE} nor {_INDEX}")
    weight_map = read_json(index, _Index).weight_map
    tensors = []
    for shard in weight_files(folder):
        tensors += _read_shard(folder, shard)
    found = {tensor.name for tensor in tensors}
    for name, shard in weight_map.items():
        if name not in found:
            raise ModelError(f"{index}: tensor {name!r} is not in {shard}")
    return tensors


def _read_shard(folder: Path, shard: str) -> list[Tensor]:
    if Path(shard).name != shard:
        raise ModelError(f"{folder / _INDEX}: {shard!r} is no file name")
    if not (folder / shard).is_file():
        raise ModelError(f"{folder}: the shard {shard!r} is missing")
    return read_safetensors(folder / shard)


def read_safetensors(path: Path) -> list[Tensor]:
    """The tensors of one file, with every extent checked against its size."""
    file = MappedFile.open(path)
    header_bytes = int.from_bytes(file.map[:8], "little")
    if file.size < 8 or header_bytes > file.size - 8:
        raise ModelError(f"{path}: its header does not fit into the file: truncated or corrupt")
    header = decode_json(file.map[8 : 8 + header_bytes], dict[str, msgspec.Raw], str(path))
    header.pop("__metadata__", None)
    return [
        _tensor(file, 8 + header_bytes, name, decode_json(raw, _Entry, f"{path}: {name}"))
        for name, raw in header.items()
    ]


def _tensor(file: MappedFile, start: int, name: str, entry: _Entry) -> Tensor:
    what = f"{file.path}: tensor {name!r}"
    if entry.dtype not in _TYPES:
        raise ModelError(f"{what} is {entry.dtype}; only {', '.join(_TYPES)} can be read")
    if not entry.shape or min(entry.shape) < 1:
        raise ModelError(f"{what} has the shape {entry.shape}")
    type = _TYPES[entry.dtype]
    begin, end = entry.data_offsets
    n_bytes = math.prod(entry.shape) * type.block_bytes
    if begin < 0 or end - begin != n_bytes or start + end > file.size:
        raise ModelError(f"{what} has the extent {begin} to {end}: truncated or corrupt")
    extent = (start + begin, n_bytes)
    load, release = partial(file.view, *extent), partial(file.release, *extent)
    return Tensor(name, type, tuple(entry.shape), load, release)
