"""The engine on a GPU: one request at a time, first in, first out.

Decode steps are queued a few ahead of the token that is waited for, so that the device never
waits for Python; a stop is seen that many steps late, and what was computed beyond it is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from enginebench_openai.protocol import (
    EngineStats,
    Feature,
    GenerationRequest,
    SamplingParams,
    TokenOutput,
)
from enginebench_quant.gpu.model import Ticket
from enginebench_quant.gpu.program import MAX_CHUNK_TOKENS
from enginebench_quant.slot import ServedSequence, Slot

__all__ = ["GpuEngine", "Runner"]

STEPS_AHEAD = 4


class Runner(Protocol):
    """What the engine needs of a model: `GpuModel`, or a stand-in in tests."""

    def begin(self, prompt: Sequence[int], sampling: SamplingParams) -> None: ...

    def prefill(self, tokens: Sequence[int], position: int) -> None: ...

    def choose(self) -> Ticket: ...

    def decode(self) -> Ticket: ...

    def token(self, ticket: Ticket) -> int: ...

    def close(self) -> None: ...


class GpuEngine:
    """A TokenEngine over one sequence's cache of `context` positions."""

    def __init__(self, runner: Runner, *, context: int, prompt_cache: bool = True) -> None:
        self.context_length = context
        self.slots = 1
        self.features: frozenset[Feature] = frozenset()
        self._runner = runner
        self._slot = Slot(context, prompt_cache=prompt_cache)
        self._tickets: deque[Ticket] = deque()  # of the request that is served

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
        """A chunk of prompt, and if it was the last, or for one more token: the next token."""
        current = self._slot.current or self._begin()
        if current.computed < len(current.request.prompt) and not self._prefill(current):
            return []
        while len(self._tickets) < min(STEPS_AHEAD, current.left):
            self._tickets.append(self._runner.decode())
        return [self._receive(current)]

    def stats(self) -> EngineStats:
        """Counters since the start."""
        return self._slot.stats()

    def close(self) -> None:
        """Let the device finish."""
        self._runner.close()

    def _begin(self) -> ServedSequence:
        current = self._slot.begin()
        self._tickets.clear()
        self._runner.begin(current.request.prompt, current.request.sampling)
        return current

    def _prefill(self, current: ServedSequence) -> bool:
        """Queue a chunk; after the last one the first token, which is the answer."""
        prompt = current.request.prompt
        tokens = prompt[current.computed : current.computed + MAX_CHUNK_TOKENS]
        self._runner.prefill(tokens, current.computed)
        current.computed += len(tokens)
        self._slot.cached(tokens)
        is_last = current.computed == len(prompt)
        if is_last:
            self._tickets.append(self._runner.choose())
        return is_last

    def _receive(self, current: ServedSequence) -> TokenOutput:
        """Wait for the oldest token that is queued."""
        token = self._runner.token(self._tickets.popleft())
        self._slot.cached(current.generated[-1:])  # by the step that gave this token
        return self._slot.answer(current, [token])
