"""A model whose first layers run on the CPU and whose last ones, with the head, on a GPU.

Its activations cross once: the residual stream of each token, 4 bytes for each of its columns. Both
parts keep the cache of their own layers; in a file these follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from enginebench_quant.cache_file import CacheRows
from enginebench_quant.gpu.logits import LogitsModel
from enginebench_quant.model import QuantModel

__all__ = ["JoinedCache", "SplitModel"]

Logits = NDArray[np.float32]
Rows = NDArray[np.uint8]


class JoinedCache:
    """The caches of parts of a model as that of the whole."""

    def __init__(self, parts: Sequence[CacheRows]) -> None:
        self._layers = [(part, layer) for part in parts for layer in range(part.n_layers)]
        self.row_bytes = parts[0].row_bytes
        assert all(part.row_bytes == self.row_bytes for part in parts)

    @property
    def n_layers(self) -> int:
        return len(self._layers)

    @property
    def position_bytes(self) -> int:
        """What one position takes in all layers, keys and values."""
        return 2 * self.n_layers * self.row_bytes

    def read_rows(self, layer: int, count: int) -> tuple[Rows, Rows]:
        """See `CacheRows`."""
        part, own = self._layers[layer]
        return part.read_rows(own, count)

    def write_rows(self, layer: int, keys: Rows, values: Rows) -> None:
        """See `CacheRows`."""
        part, own = self._layers[layer]
        part.write_rows(own, keys, values)


class SplitModel:
    """Computes as `QuantModel` does: the same calls, each through one part and then the other."""

    def __init__(self, first: QuantModel, last: LogitsModel) -> None:
        self.first, self.last = first, last
        self.cache = JoinedCache([first.cache, last.cache])

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> Logits | None:
        """See `QuantModel.forward`."""
        rows = self.first.forward_stream(tokens, position)
        return self.last.forward(rows, position, want_logits=want_logits)

    def forward_each(self, tokens: Sequence[int], position: int) -> Iterator[Logits]:
        """See `QuantModel.forward_each`."""
        return self.last.forward_each(self.first.forward_stream(tokens, position), position)

    def forward_hidden(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        """See `QuantModel.forward_hidden`."""
        return self.last.forward_hidden(self.first.forward_stream(tokens, position), position)

    def forward_rows(self, tokens: Sequence[int], position: int) -> Logits:
        """See `QuantModel.forward_rows`."""
        rows = self.first.forward_stream(tokens, position, verified=True)
        return self.last.forward_rows(rows, position)

    def shift(self, kept: int, end: int, count: int) -> None:
        """See `QuantModel.shift`."""
        self.first.shift(kept, end, count)
        self.last.shift(kept, end, count)

    def close(self) -> None:
        """Stop the threads, let the device finish."""
        self.first.close()
        self.last.close()
