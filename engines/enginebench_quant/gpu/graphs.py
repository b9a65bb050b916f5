"""CUDA graphs by name: what is launched under a name is captured once and replayed from then on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

__all__ = ["Graphs"]


class Graphs:
    """Of one device; they share a pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def run(self, name: Hashable, launch: Callable[[], object]) -> None:
        """Replay what is known by `name`; capture `launch` if nothing is."""
        self.capture(name, launch)
        self._graphs[name].replay()

    def capture(self, name: Hashable, launch: Callable[[], object]) -> None:
        """Before its first use. `launch` runs once outside the graph, which compiles kernels and
        takes workspaces: it must not mind being run twice.
        """
        if name in self._graphs:
            return
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            launch()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            launch()
        self._pool = graph.pool()
        self._graphs[name] = graph
