"""Memory for weights, caches and buffers: anonymous maps that cost nothing until they are touched.

Everything here is zero at first, aligned to a cache line, and lives as long as its object.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arena", "give_back_library", "zeros"]

ALIGNMENT = 64
HUGE_PAGE_BYTES = 2 << 20
MADV_PAGEOUT = 21  # Linux 5.4; Python has no name for it


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


def give_back_library(name: str) -> int:
    """Let the system drop the resident pages of a loaded library; returns the bytes concerned.

    Meant for one that has done its work (a compiler): its pages come back from the file if they
    are ever used again, so this is safe at any time. Does nothing where there is no such advice.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    total = 0
    for line in maps.read_text().splitlines():
        if name in line:
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            if madvise(first, last - first, MADV_PAGEOUT) == 0:
                total += last - first
    return total
