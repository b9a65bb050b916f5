"""Rows of a file's tensors to the device, a piece at a time through pinned memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Uploader"]

PIECE_BYTES = 32 << 20


class Uploader:
    """Two pinned buffers in turn: one is filled while the other is on its way."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_gpu = device.type == "cuda"
        self._buffers = [
            torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=self._is_gpu) for _ in range(2)
        ]
        self._sent = [_event() for _ in range(2)] if self._is_gpu else []
        self._turn = 0

    def pieces(self, rows: NDArray[np.uint8]) -> Iterator[tuple[int, Tensor]]:
        """Number of the first row, and rows on the device, until all of `rows` were yielded."""
        at_once = max(1, PIECE_BYTES // rows.shape[1])
        for begin in range(0, len(rows), at_once):
            yield begin, self._send(rows[begin : begin + at_once])

    def _send(self, rows: NDArray[np.uint8]) -> Tensor:
        if rows.nbytes > PIECE_BYTES:  # one very long row
            return torch.from_numpy(rows.copy()).to(self._device)
        self._turn = 1 - self._turn
        buffer = self._buffers[self._turn][: rows.nbytes].view(rows.shape)
        if self._is_gpu:
            self._sent[self._turn].synchronize()
        np.copyto(buffer.numpy(), rows)
        if not self._is_gpu:
            return buffer.clone()
        sent = buffer.to(self._device, non_blocking=True)
        self._sent[self._turn].record()
        return sent


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
