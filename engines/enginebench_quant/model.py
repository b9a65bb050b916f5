"""A model ready to run on the CPU: packed weights, cache, programs and the crew that runs them.

    kernels = Kernels(best_level(), folder, log=print)
    runner = QuantModel(open_model("smollm2-135m"), kernels, context=4096, threads=2)
    logits = runner.forward([1, 2, 3], position=0)

One sequence at a time. It knows tokens and positions; which of them are worth keeping, and what
is done with the logits, is the engine's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from enginebench_models import Model, dequantize
from enginebench_quant.buffers import Buffers
from enginebench_quant.cache import KVCache
from enginebench_quant.kernels.crew import Crew, Program
from enginebench_quant.kernels.reference import rms_norm
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.memory import give_back_library
from enginebench_quant.packed import PackedWeights
from enginebench_quant.program import ProgramWriter

__all__ = ["MAX_CHUNK_TOKENS", "MAX_VERIFIED_TOKENS", "QuantModel"]

MAX_CHUNK_TOKENS = 128
MAX_VERIFIED_TOKENS = 8
VERIFY_TILE_TOKENS = 4  # of the kernels that sum as those of a single token do
TILE_TOKENS = {"avx512_vnni": 8, "avx2": 4, "plain": 4}


class QuantModel:
    """Computes logits of token sequences; positions below `position` come from the cache."""

    def __init__(
        self,
        model: Model,
        kernels: Kernels,
        *,
        context: int,
        threads: int,
        kv_type: str = "f16",
    ) -> None:
        config, level = model.config, kernels.level
        tile = TILE_TOKENS[level.name]
        self.config, self.lanes = config, level.lanes
        self._kernels = kernels
        self._crew = Crew(threads, kernels.interpreter())
        self._weights = PackedWeights(model, kernels)
        table = model.weights["token_embd.weight"]
        self._embedding, self._embedding_type = table.data, table.type
        self._release_embedding = table.release
        self.cache = KVCache(config, context, lanes=level.lanes, tile=tile, kv_type=kv_type)
        self._buffers = Buffers(
            config,
            max_tokens=MAX_CHUNK_TOKENS,
            logits_rows=MAX_VERIFIED_TOKENS,
            tile=tile,
            lanes=level.lanes,
            capacity=self.cache.capacity,
            threads=threads,
        )
        self._kinds = self._buffers.kinds
        self._frequencies = [kind.frequencies(config.head_dim, context) for kind in self._kinds]

        def writer(max_tokens: int, tile: int) -> ProgramWriter:
            return ProgramWriter(
                config,
                self._weights,
                self.cache,
                self._buffers,
                kernels,
                threads=threads,
                tile=tile,
                max_tokens=max_tokens,
            )

        chunks = writer(MAX_CHUNK_TOKENS, tile)
        self._decode, self._prefill = chunks.decode(), chunks.prefill()
        self._logits = chunks.logits()
        sizes = range(1, MAX_VERIFIED_TOKENS + 1)
        self._write_rows = [writer(size, VERIFY_TILE_TOKENS).verify for size in sizes]
        self._rows: list[Program] = []
        kernels.report()
        give_back_library("libllvmlite")  # tens of MB, and nothing is compiled from here on
        self._weights.fill(self._crew)

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> NDArray[np.float32] | None:
        """Run at most MAX_CHUNK_TOKENS tokens from `position` on; the last one's logits.

        The logits are a view on a buffer that the next call overwrites.
        """
        self._place(tokens, position)
        if len(tokens) == 1 and want_logits:
            self._crew.run(self._decode)
            return self._read_logits()
        self._crew.run(self._prefill)
        if not want_logits:
            return None
        self._buffers.x.floats[0] = self._buffers.x.floats[len(tokens) - 1]
        self._buffers.state[0] = 1
        self._crew.run(self._logits)
        return self._read_logits()

    def forward_each(self, tokens: Sequence[int], position: int) -> Iterator[NDArray[np.float32]]:
        """Run at most MAX_CHUNK_TOKENS tokens from `position` on; every token's logits, in order.

        Each yielded array is a view that the next one overwrites; nothing else may run in between.
        """
        self._place(tokens, position)
        self._crew.run(self._prefill)
        self._buffers.state[0] = 1
        rows = self._buffers.x.floats
        for row in range(len(tokens)):
            rows[0] = rows[row]
            self._crew.run(self._logits)
            yield self._read_logits()

    def prepare_rows(self) -> None:
        """Compile what `forward_rows` needs now, instead of at its first call."""
        if not self._rows:
            self._rows = [write() for write in self._write_rows]

    def forward_hidden(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        """Run at most MAX_CHUNK_TOKENS tokens; what the last layer and the last norm make of them.

        (tokens, hidden size), in memory of its own.
        """
        self._place(tokens, position)
        self._crew.run(self._prefill)
        width = self.config.hidden_size
        weight = self._weights.vector("output_norm.weight")
        assert weight is not None
        rows = self._buffers.x.floats[: len(tokens), :width]
        return rms_norm(rows, weight[:width], self.config.rms_norm_eps)

    def forward_stream(
        self, tokens: Sequence[int], position: int, *, verified: bool = False
    ) -> NDArray[np.float32]:
        """Run at most MAX_CHUNK_TOKENS tokens; the residual stream behind the last layer.

        (tokens, hidden size), a view that the next call overwrites. `verified`: at most
        MAX_VERIFIED_TOKENS, each to the last bit as if it were the only one.
        """
        if verified and len(tokens) > 1:
            self.prepare_rows()
        self._place(tokens, position)
        if len(tokens) == 1:
            self._crew.run(self._decode)
        else:
            self._crew.run(self._rows[len(tokens) - 1] if verified else self._prefill)
        return self._buffers.x.floats[: len(tokens), : self.config.hidden_size]

    def forward_rows(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        """Run at most MAX_VERIFIED_TOKENS tokens from `position` on, in one pass over the weights.

        The logits of each, (tokens, vocabulary), are a view that the next call overwrites. They
        are those that `forward` would give token by token, to the last bit.
        """
        assert len(tokens) <= MAX_VERIFIED_TOKENS
        self.prepare_rows()
        self._place(tokens, position)
        self._crew.run(self._rows[len(tokens) - 1])
        return self._buffers.logits.floats[: len(tokens), : self.config.vocab_size]

    def shift(self, kept: int, end: int, count: int) -> None:
        """Of `count` cached positions forget those from `kept` to `end`; the rest move down.

        Their keys are turned to where they are now. What they know of forgotten tokens they keep,
        as with llama.cpp's context shift; the first tokens are best kept (arXiv 2309.17453).
        """
        angles = [frequencies * (kept - end) for frequencies in self._frequencies]
        for layer, kind in enumerate(self.config.layers):
            self.cache.forget(layer, kept, end, count, angles[self._kinds.index(kind)])

    def close(self) -> None:
        """Stop the crew's threads."""
        self._crew.close()

    def _read_logits(self) -> NDArray[np.float32]:
        return self._buffers.logits.floats[0, : self.config.vocab_size]

    def _place(self, tokens: Sequence[int], position: int) -> None:
        """Embeddings, rotation angles and the launch's size into the buffers."""
        count, width = len(tokens), self.config.hidden_size
        rows = self._embedding[np.asarray(tokens)]
        embedded = dequantize(rows, self._embedding_type, (count, width))
        if count > 1:
            self._release_embedding()  # a prompt touches many pages, and one token few
        scale = self.config.embedding_scale
        self._buffers.x.floats[:count, :width] = embedded if scale is None else embedded * scale
        self._turn(np.arange(position, position + count)[:, None])
        self._buffers.state[:] = count, position
        self._buffers.row_states[:, 1] = np.arange(position, position + MAX_VERIFIED_TOKENS)

    def _turn(self, positions: NDArray[np.int64]) -> None:
        """Cosines and sines of the positions (tokens, 1), for each kind of layer."""
        count, tables = len(positions), self._buffers.cos_sin
        for kind, table, frequencies in zip(self._kinds, tables, self._frequencies, strict=True):
            angles = positions * frequencies
            np.cos(angles, out=table[:count, 0], casting="same_kind")
            np.sin(angles, out=table[:count, 1], casting="same_kind")
            if kind.magnitude != 1.0:
                table[:count] *= np.float32(kind.magnitude)
