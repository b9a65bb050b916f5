"""Memory for weights, caches and buffers: anonymous maps that cost nothing until they are touched.

Everything here is zero at first, aligned to a cache line, and lives as long as its object.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arena", "zeros"]

ALIGNMENT = 64
HUGE_PAGE_BYTES = 2 << 20


def _map(n_bytes: int, advice: str) -> NDArray[np.uint8]:
    map = mmap.mmap(-1, max(n_bytes, 1))
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
