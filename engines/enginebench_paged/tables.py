"""Block tables by slot: the truth on the host, a copy on the device that only ever receives news.

On a CPU both are the same memory. Row `max_batch` belongs to nobody: padded rows of graphs use it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from enginebench_paged.step import Piece
from enginebench_paged.transfer import upload

__all__ = ["BlockTables"]


class BlockTables:
    """Which blocks each slot's sequence holds, (max_batch + 1, width) int32."""

    def __init__(self, max_batch: int, width: int, device: torch.device) -> None:
        self.host = np.zeros((max_batch + 1, width), np.int32)
        self._filled = [0] * (max_batch + 1)
        shared = torch.from_numpy(self.host)
        self.device = shared if device.type == "cpu" else shared.to(device)  # the device's copy

    def reset(self, slot: int) -> None:
        """The slot has a new owner."""
        self._filled[slot] = 0

    def update(self, pieces: Sequence[Piece]) -> None:
        """Take in the blocks that sequences were given since their last step."""
        places: list[int] = []
        width = self.host.shape[1]
        for piece in pieces:
            blocks, filled = piece.sequence.blocks, self._filled[piece.slot]
            if len(blocks) > filled:
                self.host[piece.slot, filled : len(blocks)] = blocks[filled:]
                places.extend(range(piece.slot * width + filled, piece.slot * width + len(blocks)))
                self._filled[piece.slot] = len(blocks)
        if places and self.device.is_cuda:
            self._send(np.array(places, np.int64))

    def _send(self, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        values = self.host.reshape(-1)[places]
        news = upload(np.stack([places, values.astype(np.int64)]), self.device.device)
        self.device.view(-1)[news[0]] = news[1].to(torch.int32)
