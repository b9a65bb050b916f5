"""Typed access to the metadata keys under the architecture's name in a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enginebench.errors import ModelError
from enginebench_models.gguf import GGUFFile

__all__ = ["Keys"]


@dataclass(frozen=True, slots=True)
class Keys:
    """ModelError names a key that is missing without a default, or of another kind."""

    file: GGUFFile
    architecture: str

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.architecture}.{key}"
        value = self.file.metadata.get(name, default)
        if value is None:
            raise ModelError(f"{self.file.path}: metadata {name!r} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{self.file.path}: metadata {name!r} is no single number")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not isinstance(value, int):
            raise ModelError(f"{self.file.path}: {self.architecture}.{key} is {value}, no integer")
        return value

    def optional(self, key: str) -> float | None:
        """A number, or None where it is missing or 0."""
        return float(self.number(key, default=0)) or None

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, bool):
            raise ModelError(
                f"{self.file.path}: {self.architecture}.{key} is {value}, not true or false"
            )
        return value

    def flags(self, key: str, length: int) -> tuple[bool, ...] | None:
        """`length` flags; None where the key is missing or no array."""
        value = self.file.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, np.ndarray):
            return None
        if len(value) != length:
            raise ModelError(
                f"{self.file.path}: {self.architecture}.{key} has {len(value)} flags, not {length}"
            )
        return tuple(bool(flag) for flag in value)

    def text(self, key: str, default: str) -> str:
        return str(self.file.metadata.get(f"{self.architecture}.{key}", default))
