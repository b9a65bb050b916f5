"""The KV cache of a prompt in a file, for the model that made it.

Layout, little-endian: magic, version, length of a JSON header, the header, the tokens as int32,
then for each layer its keys and its values. Rows are in order of (kv head, position, element), so a
file fits any CPU level. Whether it is this model's is told by a fingerprint of weights and shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from enginebench_models import Model

__all__ = ["CacheRows", "fingerprint", "restore_cache", "save_cache"]

MAGIC: Final = b"EBKV"
VERSION: Final = 1
MOST_HEADER_BYTES: Final = 4096
PREFIX: Final = struct.Struct("<4sII")

Rows = NDArray[np.uint8]


class CacheRows(Protocol):
    """What a file holds of a cache: bytes of whole positions."""

    @property
    def n_layers(self) -> int: ...

    @property
    def row_bytes(self) -> int:
        """Of the keys, and as many of the values, of one position in one layer."""
        ...

    def read_rows(self, layer: int, count: int) -> tuple[Rows, Rows]: ...

    def write_rows(self, layer: int, keys: Rows, values: Rows) -> None: ...


@dataclass(frozen=True, slots=True)
class _Header:
    fingerprint: str
    tokens: int
    layers: int
    row_bytes: int

    @property
    def payload_bytes(self) -> int:
        return 4 * self.tokens + 2 * self.layers * self.tokens * self.row_bytes


def fingerprint(model: Model, kv_type: str) -> str:
    """Of the shape, the types, and the bytes of norms, biases and the first embeddings."""
    digest = hashlib.sha256(f"{model.config}{kv_type}".encode())
    for name in sorted(tensor.name for tensor in model.weights.values()):
        tensor = model.weights[name]
        digest.update(f"{name}{tensor.type.name}{tensor.shape}".encode())
        if len(tensor.shape) == 1:
            digest.update(tensor.data.tobytes())
    digest.update(model.weights["token_embd.weight"].data[:16].tobytes())
    return digest.hexdigest()


def save_cache(path: Path, tokens: Sequence[int], cache: CacheRows, mark: str) -> None:
    """Written beside `path` first, then renamed: a reader finds the whole file or the old one."""
    header = _Header(mark, len(tokens), cache.n_layers, cache.row_bytes)
    fields = json.dumps({name: getattr(header, name) for name in header.__slots__}).encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(PREFIX.pack(MAGIC, VERSION, len(fields)) + fields)
            file.write(np.asarray(tokens, "<i4").tobytes())
            for layer in range(cache.n_layers):
                for rows in cache.read_rows(layer, len(tokens)):
                    file.write(rows.tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def restore_cache(path: Path, cache: CacheRows, mark: str, *, context: int) -> list[int]:
    """Fill `cache` and give the tokens; ValueError says why it is no cache of this model.

    Nothing is changed unless the file is whole and fits.
    """
    with path.open("rb") as file:
        header = _read_header(file, path)
        if header.fingerprint != mark:
            raise ValueError(f"{path} is the cache of another model, or of another kv_type")
        if (header.layers, header.row_bytes) != (cache.n_layers, cache.row_bytes):
            raise ValueError(f"{path} has {header.layers} layers of {header.row_bytes} bytes a row")
        if header.tokens > context:
            raise ValueError(
                f"{path} holds {header.tokens} tokens, more than the context of {context}"
            )
        rest = path.stat().st_size - file.tell()
        if rest != header.payload_bytes:
            raise ValueError(
                f"{path} is cut off or damaged: {rest} bytes follow its header, "
                f"{header.payload_bytes} should"
            )
        tokens = np.frombuffer(file.read(4 * header.tokens), "<i4").tolist()
        size = header.tokens * header.row_bytes
        for layer in range(header.layers):
            keys, values = (np.frombuffer(file.read(size), np.uint8) for _ in range(2))
            cache.write_rows(layer, keys, values)
    return [int(token) for token in tokens]


def _read_header(file: BinaryIO, path: Path) -> _Header:
    start = file.read(PREFIX.size)
    if len(start) < PREFIX.size or start[:4] != MAGIC:
        raise ValueError(f"{path} is no prompt cache")
    _, version, length = PREFIX.unpack(start)
    if version != VERSION:
        raise ValueError(f"{path} has version {version} of the format; this is version {VERSION}")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"{path} has a header of {length} bytes; at most {MOST_HEADER_BYTES}")
    try:
        header = _Header(**json.loads(file.read(length)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has a damaged header: {error}") from None
    sizes = (header.tokens, header.layers, header.row_bytes)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError(f"{path} has a damaged header: sizes {sizes}")
    return header
