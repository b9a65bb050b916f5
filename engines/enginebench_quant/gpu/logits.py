"""A model on one device that computes logits of what it is given, as `QuantModel` does on the CPU.

    runner = LogitsModel(open_model("smollm2-135m"), context=4096, device=torch.device("cuda", 0))
    logits = runner.forward([1, 2, 3], position=0)

One sequence at a time. What it is given are tokens; or, where it has only the last layers
(`begins` False), rows of the residual stream that the layers before them gave.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enginebench_models import Model
from enginebench_quant.gpu.cache import GpuCache
from enginebench_quant.gpu.graphs import Graphs
from enginebench_quant.gpu.program import Program
from enginebench_quant.gpu.state import MAX_CHUNK_TOKENS, MAX_ROWS
from enginebench_quant.gpu.step import Step
from enginebench_quant.gpu.techniques import Techniques
from enginebench_quant.gpu.weights import Weights
from enginebench_quant.kernels.gpu.dependent_launch import allow_early_starts

__all__ = ["BUCKETS", "MAX_VERIFIED_TOKENS", "Given", "LogitsModel"]

BUCKETS = (16, 64, 128, 256, MAX_CHUNK_TOKENS)
MAX_VERIFIED_TOKENS = 8

Logits = NDArray[np.float32]
Given = Sequence[int] | NDArray[np.float32]  # tokens; (tokens, hidden size)


class LogitsModel:
    """Positions below the one that is asked for come from the cache."""

    def __init__(
        self,
        model: Model,
        *,
        context: int,
        device: torch.device,
        begins: bool = True,
        kv_type: str = "f16",
        techniques: Techniques = Techniques(),  # noqa: B008 - frozen
    ) -> None:
        self.device, self.begins = device, begins
        self._is_gpu = device.type == "cuda"
        allow_early_starts(techniques.early_launch)
        with torch.inference_mode():
            self.weights = Weights(model, device, begins=begins)
            self.program = Program(model.config, self.weights, context, device, techniques, kv_type)
            shape = (MAX_VERIFIED_TOKENS, model.config.vocab_size)
            self._logits = torch.zeros(shape, dtype=torch.float32, pin_memory=self._is_gpu)
            self._graphs = Graphs(device) if self._is_gpu and techniques.cuda_graphs else None
            self._prepare()

    @property
    def cache(self) -> GpuCache:
        return self.program.cache

    @torch.inference_mode()
    def forward(self, given: Given, position: int, *, want_logits: bool = True) -> Logits | None:
        """Run at most MAX_CHUNK_TOKENS tokens from `position` on; the last one's logits.

        The logits are a view on a buffer that the next call overwrites.
        """
        if len(given) == 1 and want_logits:
            found: Logits = self.forward_rows(given, position)
        else:
            self.prefill(given, position)
            if not want_logits:
                return None
            self.program.step.head()
            found = self._read(self.program.step)
        last: Logits = found[0]
        return last

    @torch.inference_mode()
    def forward_rows(self, given: Given, position: int) -> Logits:
        """Run at most MAX_VERIFIED_TOKENS tokens, weights read once for every MAX_ROWS of them.

        The logits of each, (tokens, vocabulary), are a view that the next call overwrites. They are
        those that `forward` would give token by token.
        """
        assert len(given) <= MAX_VERIFIED_TOKENS
        for begin in range(0, len(given), MAX_ROWS):
            part = given[begin : begin + MAX_ROWS]
            step = self.program.steps(len(part))
            self._place_rows(step, part, position + begin)
            self._run(("step", step.rows), step.run)
            self._read(step, begin)
        return self._logits.numpy()[: len(given)]

    @torch.inference_mode()
    def forward_each(self, given: Given, position: int) -> Iterator[Logits]:
        """Run at most MAX_CHUNK_TOKENS tokens from `position` on; every token's logits, in order.

        Each yielded array is a view that the next one overwrites; nothing else may run in between.
        """
        self.prefill(given, position)
        step = self.program.steps(MAX_ROWS)
        for begin in range(0, len(given), MAX_ROWS):
            with torch.inference_mode():
                rows = self.program.chunk.xs[begin : min(begin + MAX_ROWS, len(given))]
                step.x[: len(rows)] = rows
                step.head()
                self._read(step)
            yield from self._logits.numpy()[: len(rows)]

    @torch.inference_mode()
    def forward_hidden(self, given: Given, position: int) -> NDArray[np.float32]:
        """Run at most MAX_CHUNK_TOKENS tokens; what the last layer and the last norm make of them.

        (tokens, hidden size), in memory of its own.
        """
        self.prefill(given, position)
        rows, eps = self.program.chunk.xs[: len(given)], self.program.config.rms_norm_eps
        scale = torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)
        return (rows * scale * self.weights.output_norm).cpu().numpy()

    @torch.inference_mode()
    def prefill(self, given: Given, position: int) -> None:
        """At most MAX_CHUNK_TOKENS tokens into the cache; the residual stream of the last stands in
        the step of one token, for its head.
        """
        program, count = self.program, len(given)
        if self.begins:
            self._put(program.state.chunk[:count], given)
            self._put(program.state.token_and_position, (given[-1], position + count - 1))
        else:
            self._put(program.chunk.xs[:count], given)
        self._put(program.state.span, (position, count))
        if self._graphs is None:
            program.chunk.run(count)
            return
        size = next(size for size in BUCKETS if size >= count)
        self._run(("chunk", size), partial(program.chunk.run, size))

    @torch.inference_mode()
    def shift(self, kept: int, end: int, count: int) -> None:
        """See `QuantModel.shift`."""
        config, cache = self.program.config, self.cache
        for layer, kind in enumerate(config.layers):
            frequencies = kind.frequencies(config.head_dim, cache.context)
            cache.forget(layer, kept, end, count, frequencies * (kept - end))

    def close(self) -> None:
        """Waits until the device has done what was asked."""
        if self._is_gpu:
            torch.cuda.synchronize(self.device)

    def _prepare(self) -> None:
        """Capture what every request needs."""
        self.program.state.span[1] = 1
        if self._graphs is not None:
            for size in BUCKETS:
                self._graphs.capture(("chunk", size), partial(self.program.chunk.run, size))

    def _run(self, name: Hashable, launch: Callable[[], object]) -> None:
        if self._graphs is None:
            launch()
        else:
            self._graphs.run(name, launch)

    def _place_rows(self, step: Step, given: Given, position: int) -> None:
        state, count = self.program.state, len(given)
        if self.begins:
            self._put(state.rows[:count], given)
        else:
            self._put(step.x, given)
        self._put(state.positions[:count], range(position, position + count))

    def _read(self, step: Step, begin: int = 0) -> Logits:
        """Wait for the logits of a step, which become rows `begin` and on of the buffer."""
        rows = self._logits[begin : begin + step.rows]
        rows.copy_(step.logits, non_blocking=True)
        if self._is_gpu:
            torch.cuda.current_stream(self.device).synchronize()
        return rows.numpy()

    def _put(self, target: Tensor, numbers: Sequence[float] | NDArray[np.float32]) -> None:
        """A few numbers to the device, in the order of its work."""
        source = torch.tensor(numbers, dtype=target.dtype)
        target.copy_(source.pin_memory() if self._is_gpu else source, non_blocking=True)
