"""A file mapped into memory, read-only: views on ranges of it, pages given back on request."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError

__all__ = ["MappedFile"]


@dataclass(frozen=True, slots=True)
class MappedFile:
    """The map lives as long as anything refers to it or to a view on it."""

    path: Path
    map: mmap.mmap
    size: int

    @classmethod
    def open(cls, path: Path) -> MappedFile:
        """Map the whole file; ModelError if it cannot be read or is empty."""
        try:
            with path.open("rb") as file:
                map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:  # mmap refuses to map nothing
            raise ModelError(f"{path}: is empty") from error
        return cls(path, map, len(map))

    def view(self, offset: int, n_bytes: int) -> NDArray[np.uint8]:
        """Read-only bytes; the caller has checked that the range is inside the file."""
        return np.frombuffer(self.map, np.uint8, count=n_bytes, offset=offset)

    def release(self, offset: int, n_bytes: int) -> None:
        """Drop the whole pages inside the range from memory; reading them again is allowed."""
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (offset + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED, first, length)
