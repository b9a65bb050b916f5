"""Reads GGUF files (versions 2 and 3, little-endian): metadata, and tensors as views on the file.

Every count, length, offset and extent is checked against what is left of the file before anything
is allocated for it, so a truncated or corrupt file ends in a ModelError that names the field.
Knows the container only: what a key means is the business of `config_gguf` and `tokenizer_gguf`.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models.ggml_types import GGMLType
from enginebench_models.mapped_file import MappedFile
from enginebench_models.weights import Tensor

__all__ = [
    "ARRAY_TYPE",
    "MAGIC",
    "NUMBER_TYPES",
    "STRING_TYPE",
    "GGUFFile",
    "GGUFValue",
    "read_gguf",
]

MAGIC = b"GGUF"
GGUFValue = bool | int | float | str | list[Any] | NDArray[Any]

NUMBER_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
STRING_TYPE, ARRAY_TYPE = 8, 9
_MAX_NESTING = 3
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 65_535
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """An open GGUF file. String arrays are lists, number arrays are read-only numpy arrays."""

    path: Path
    version: int
    metadata: dict[str, GGUFValue]
    tensors: dict[str, Tensor]
    size_bytes: int


def read_gguf(path: Path) -> GGUFFile:
    """Map the file and parse its header; tensor data is not touched."""
    file = MappedFile.open(path)
    cursor = _Cursor(file)
    version = _read_version(cursor)
    n_tensors = cursor.count("tensor count", smallest=24)
    n_keys = cursor.count("metadata count", smallest=13)
    metadata: dict[str, GGUFValue] = {}
    for _ in range(n_keys):
        key = cursor.name("metadata key")
        if key in metadata:
            raise cursor.error(f"metadata key {key!r} stands there twice")
        metadata[key] = cursor.value(f"metadata {key!r}")
    tensors = _read_tensors(cursor, n_tensors, _alignment(cursor, metadata))
    return GGUFFile(path, version, metadata, tensors, file.size)


def _read_version(cursor: _Cursor) -> int:
    magic = bytes(cursor.take(4, "magic"))
    if magic != MAGIC:
        raise cursor.error(f"starts with {magic!r}, not {MAGIC!r}: not a GGUF file")
    version: int = cursor.number(4, "version")
    if version in (2, 3):
        return version
    if version & 0xFFFF == 0:
        raise cursor.error("is a big-endian GGUF file; convert it to little-endian")
    raise cursor.error(f"has GGUF version {version}; versions 2 and 3 can be read")


def _alignment(cursor: _Cursor, metadata: dict[str, GGUFValue]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, Tensor]:
    headers: dict[str, tuple[GGMLType, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = cursor.name("tensor name")
        if name in headers:
            raise cursor.error(f"tensor {name!r} stands there twice")
        headers[name] = _read_tensor_header(cursor, name, alignment)
    start = (cursor.position + alignment - 1) // alignment * alignment
    tensors = {}
    for name, (type, shape, offset) in headers.items():
        n_bytes = math.prod(shape) // type.block_size * type.block_bytes
        if start + offset + n_bytes > cursor.file.size:
            raise cursor.error(
                f"tensor {name!r} needs bytes {start + offset} to {start + offset + n_bytes}, "
                f"but the file ends at {cursor.file.size}: it is truncated or corrupt"
            )
        extent = (start + offset, n_bytes)
        load = partial(cursor.file.view, *extent)
        tensors[name] = Tensor(name, type, shape, load, partial(cursor.file.release, *extent))
    return tensors


def _read_tensor_header(
    cursor: _Cursor, name: str, alignment: int
) -> tuple[GGMLType, tuple[int, ...], int]:
    """The type, the shape in numpy order, and the offset into the data section."""
    what = f"tensor {name!r}"
    n_dimensions = cursor.number(4, f"{what} dimension count")
    if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
        raise cursor.error(f"{what} has {n_dimensions} dimensions; 1 to 4 are allowed")
    shape = tuple(cursor.number(10, f"{what} shape") for _ in range(n_dimensions))[::-1]
    if 0 in shape:
        raise cursor.error(f"{what} has the empty shape {shape}")
    number = cursor.number(4, f"{what} type")
    if number not in GGMLType.__members__.values():
        raise cursor.error(f"{what} has the unknown type number {number}")
    type = GGMLType(number)
    if shape[-1] % type.block_size:
        raise cursor.error(
            f"{what} has rows of {shape[-1]} values, no multiple of {type.name}'s {type.block_size}"
        )
    offset = cursor.number(10, f"{what} offset")
    if offset % alignment:
        raise cursor.error(f"{what} starts at offset {offset}, no multiple of {alignment}")
    return type, shape, offset


class _Cursor:
    """Walks over the header; every step is checked against the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = 0

    def error(self, problem: str) -> ModelError:
        return ModelError(f"{self.file.path}: {problem}")

    def take(self, n_bytes: int, what: str) -> memoryview:
        if n_bytes > self.file.size - self.position:
            raise self.error(
                f"{what} needs {n_bytes} bytes at offset {self.position}, "
                f"but the file ends at {self.file.size}: it is truncated or corrupt"
            )
        start, self.position = self.position, self.position + n_bytes
        return memoryview(self.file.map)[start : self.position]

    def number(self, kind: int, what: str) -> Any:
        dtype = NUMBER_TYPES[kind]
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()

    def count(self, what: str, smallest: int) -> int:
        """A number of items of at least `smallest` bytes each; they must fit into the rest."""
        count: int = self.number(10, what)
        if count * smallest > self.file.size - self.position:
            raise self.error(f"{what} is {count}, more than the file can hold")
        return count

    def string(self, what: str) -> str:
        length = self.number(10, f"{what} length")
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8 ({error.reason})") from None

    def name(self, what: str) -> str:
        start = self.position
        name = self.string(what)
        if not 0 < len(name) <= _MAX_NAME_BYTES:
            raise self.error(f"{what} at offset {start} has {len(name)} characters")
        return name

    def value(self, what: str) -> GGUFValue:
        kind = self.number(4, f"{what} type")
        if kind == ARRAY_TYPE:
            return self.array(what, nesting=1)
        return self.scalar(kind, what)

    def scalar(self, kind: int, what: str) -> GGUFValue:
        if kind == STRING_TYPE:
            return self.string(what)
        if kind in NUMBER_TYPES:
            number: GGUFValue = self.number(kind, what)
            return number
        raise self.error(f"{what} has the unknown value type {kind}")

    def array(self, what: str, nesting: int) -> GGUFValue:
        kind = self.number(4, f"{what} element type")
        if kind == STRING_TYPE:
            return self.strings(self.count(f"{what} length", smallest=8), what)
        if kind in NUMBER_TYPES:
            dtype = NUMBER_TYPES[kind]
            count = self.count(f"{what} length", dtype.itemsize)
            return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)
        if kind == ARRAY_TYPE and nesting < _MAX_NESTING:
            count = self.count(f"{what} length", smallest=12)
            return [self.array(what, nesting + 1) for _ in range(count)]
        raise self.error(f"{what} has elements of the unknown type {kind}")

    def strings(self, count: int, what: str) -> list[str]:
        """The hot loop of a header: a vocabulary has up to a few hundred thousand strings."""
        buffer, end, position = self.file.map, self.file.size, self.position
        length_at: Callable[[mmap.mmap, int], tuple[int]] = _U64.unpack_from
        strings: list[str] = []
        append = strings.append
        try:
            for _ in range(count):
                start = position + 8
                if start > end:
                    raise self.error(f"{what} is cut off after {len(strings)} of {count} strings")
                position = start + length_at(buffer, position)[0]
                if position > end:
                    raise self.error(f"{what}: string {len(strings)} reaches past the file's end")
                append(buffer[start:position].decode())
        except UnicodeDecodeError as error:
            raise self.error(
                f"{what}: string {len(strings)} is not UTF-8 ({error.reason})"
            ) from None
        self.position = position
        return strings
