"""JSON of a known form: decoded into types, or a ModelError that says where it departs from it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from enginebench.errors import ModelError

__all__ = ["decode_json", "read_json"]

T = TypeVar("T")


def read_json(path: Path, form: type[T]) -> T:
    """The content of a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_json(data, form, str(path))


def decode_json(data: bytes, form: type[T], where: str) -> T:
    """Decode `data`, which comes from `where`."""
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{where}: is not what it should be: {error}") from error
