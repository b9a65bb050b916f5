"""The engine on a CPU: one request at a time on a `QuantModel`.

A step is a chunk of prompt or one token, so that an abort never waits long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput
from enginebench_quant.sampler import Sampler
from enginebench_quant.slot import ServedSequence, Slot

__all__ = ["QuantEngine", "Runner"]

CHUNK_TOKENS = 128


class Runner(Protocol):
    """What the engine needs of a model: `QuantModel`, or a stand-in in tests."""

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> NDArray[np.float32] | None: ...

    def close(self) -> None: ...


class QuantEngine:
    """A TokenEngine over one sequence's cache of `context` positions."""

    def __init__(self, runner: Runner, *, context: int, prompt_cache: bool = True) -> None:
        self.context_length = context
        self.features: frozenset[Feature] = frozenset()
        self._runner = runner
        self._slot = Slot(context, prompt_cache=prompt_cache)
        self._sampler: Sampler | None = None  # of the request that is served

    def add(self, request: GenerationRequest) -> None:
        """Queue it behind the others."""
        self._slot.add(request)

    def abort(self, request_id: str) -> None:
        """Forget it; what it left in the cache may still serve the next prompt."""
        self._slot.abort(request_id)

    def has_work(self) -> bool:
        """Whether a request is running or waiting."""
        return self._slot.has_work()

    def step(self) -> Sequence[TokenOutput]:
        """A chunk of prompt, which yields a token only if it was the last, or one more token."""
        current = self._slot.current
        if current is None:
            current = self._slot.begin()
            self._sampler = Sampler(current.request.sampling, current.request.prompt)
        assert self._sampler is not None
        logits = self._advance(current)
        if logits is None:
            return []
        return [self._slot.answer(current, [self._sampler.sample(logits)])]

    def stats(self) -> EngineStats:
        """Counters since the start."""
        return self._slot.stats()

    def close(self) -> None:
        """Stop the model's threads."""
        self._runner.close()

    def _advance(self, current: ServedSequence) -> NDArray[np.float32] | None:
        """Compute the next tokens of `current`; logits if they were the last there are."""
        prompt = current.request.prompt
        begin = current.computed
        tokens = prompt[begin : begin + CHUNK_TOKENS] or current.generated[-1:]
        current.computed += len(tokens)
        is_last = current.computed >= len(prompt)
        logits = self._runner.forward(tokens, begin, want_logits=is_last)
        self._slot.cached(tokens)
        return logits
