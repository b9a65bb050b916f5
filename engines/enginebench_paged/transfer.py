"""Copies between host and device that nobody waits for.

Pinned memory comes from torch's caching allocator, which hands a buffer out again only after the
copies from it are done. On a CPU nothing is copied at all.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

__all__ = ["Download", "upload"]


def upload(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array on the device, in the order of the current stream."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """A tensor on its way to the host; the copy is part of the stream, `wait` is for its end."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._host = tensor
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def wait(self) -> list[Any]:
        """The values, as soon as they are there."""
        if self._event is not None:
            self._event.synchronize()
        values: list[Any] = self._host.tolist()
        return values
