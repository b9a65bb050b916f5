"""Memory for weights, caches and buffers: anonymous maps that cost nothing until they are touched.

Everything here is zero at first, aligned to a cache line, and lives as long as its object.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arena", "give_back_library", "zeros"]

ALIGNMENT = 64
HUGE_PAGE_BYTES = 2 << 20


def _map(n_bytes: int, advice: str) -> NDArray[np.uint8]:
    size = max(n_bytes, 1)
    if sys.platform == "win32":
        return np.frombuffer(mmap.mmap(-1, size), np.uint8)
    map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, advice):
        map.madvise(getattr(mmap, advice))
    return np.frombuffer(map, np.uint8)


class Arena:
    """One block for all packed weights, on huge pages where the system offers them."""

    def __init__(self, n_bytes: int) -> None:
        whole = _map(n_bytes + HUGE_PAGE_BYTES, "MADV_HUGEPAGE")
        self._free = whole[-whole.ctypes.data % HUGE_PAGE_BYTES :]

    @staticmethod
    def padded(n_bytes: int) -> int:
        """What a piece of `n_bytes` takes."""
        return -(-n_bytes // ALIGNMENT) * ALIGNMENT

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """The next piece."""
        assert self.padded(n_bytes) <= self._free.size, "the arena was made too small"
        piece, self._free = self._free[:n_bytes], self._free[self.padded(n_bytes) :]
        return piece


def zeros(n_bytes: int) -> NDArray[np.uint8]:
    """Lazily allocated zeros on small pages, so that resident memory follows use."""
    return _map(n_bytes, "MADV_NOHUGEPAGE")


def give_back_library(name: str) -> None:
    """Drop the resident pages of a loaded library, and what the allocator holds but does not use.

    Meant for a compiler that has done its work. Only mappings without a page of their own are
    dropped: what is used again comes back from the file. Does nothing where there is no /proc.
    """
    libc = ctypes.CDLL(None)
    if not Path("/proc/self/smaps").exists():
        return
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for first, last in _unmodified_mappings(name):
        libc.madvise(first, last - first, mmap.MADV_DONTNEED)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _unmodified_mappings(name: str) -> Iterator[tuple[int, int]]:
    """Address ranges of a file whose path contains `name` that hold nothing but the file's bytes.

    Reads smaps: a line of range, rights and path, then one for each figure.
    """
    bounds = (0, 0)
    is_named = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            first, last = (int(part, 16) for part in words[0].split("-"))
            bounds, is_named = (first, last), name in line
        elif is_named and words[:2] == ["Anonymous:", "0"]:
            yield bounds
