"""Writes GGUF files, version 3: what `gguf.read_gguf` reads. Atomic: a whole file or none.

write_gguf(path, {"general.architecture": "llama", ...}, weights.values())
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from enginebench_models.gguf import ARRAY_TYPE, MAGIC, NUMBER_TYPES, STRING_TYPE, GGUFValue
from enginebench_models.weights import Tensor

__all__ = ["write_gguf"]

_ALIGNMENT = 32


def write_gguf(path: Path, metadata: Mapping[str, GGUFValue], tensors: Iterable[Tensor]) -> None:
    """Write a file. Python ints become u32 (i32 if negative, 64 bits if large), floats f32.

    Arrays keep their numpy type; lists hold strings. Tensors are written one at a time, so a model
    larger than memory can be written.
    """
    listed = list(tensors)
    handle, partial = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), _usual_mode())
            file.write(_header(metadata, listed))
            for tensor in listed:
                file.write(tensor.data.data)
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _usual_mode() -> int:
    """What a new file is allowed; temporary files start with less."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _header(metadata: Mapping[str, GGUFValue], tensors: list[Tensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        parts += [_string(tensor.name), dimensions, struct.pack("<IQ", tensor.type, offset)]
        offset += -(-tensor.size_bytes // _ALIGNMENT) * _ALIGNMENT
    header = b"".join(parts)
    return header + b"\0" * (-len(header) % _ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: GGUFValue) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING_TYPE) + _string(value)
    if isinstance(value, list):
        head = struct.pack("<IIQ", ARRAY_TYPE, STRING_TYPE, len(value))
        return head + b"".join(map(_string, value))
    if isinstance(value, np.ndarray):
        head = struct.pack("<IIQ", ARRAY_TYPE, _type_number(value.dtype), value.size)
        return head + value.tobytes()
    number = _number(value)
    return struct.pack("<I", _type_number(number.dtype)) + number.tobytes()


def _number(value: bool | int | float) -> np.generic:
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float32(value)
    for kind in (np.uint32, np.int32, np.uint64, np.int64):
        if np.iinfo(kind).min <= value <= np.iinfo(kind).max:
            return kind(value)
    raise ValueError(f"{value} does not fit into 64 bits")


def _type_number(dtype: np.dtype[np.generic]) -> int:
    for number, known in NUMBER_TYPES.items():
        if known == dtype:
            return number
    raise ValueError(f"GGUF has no arrays of {dtype}")
