"""The engine on a GPU: one request at a time, first in, first out.

Decode steps are queued a few ahead of the token that is waited for, so that the device never
waits for Python; a stop is seen that many steps late, and what was computed beyond it is dropped.
The cache of the last request is kept: what the next prompt shares with it is not computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

from enginebench_openai.protocol import (
    EngineStats,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenOutput,
)
from enginebench_quant.gpu.model import Ticket
from enginebench_quant.gpu.program import MAX_CHUNK_TOKENS

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


class _Sequence:
    """The request that is being served: `computed` of its prompt is in the cache."""

    __slots__ = ("cached", "computed", "generated", "request", "tickets")

    def __init__(self, request: GenerationRequest, cached: int) -> None:
        self.request = request
        self.cached = self.computed = cached
        self.generated: list[int] = []
        self.tickets: deque[Ticket] = deque()

    @property
    def may_queue(self) -> bool:
        queued = len(self.tickets)
        left = self.request.max_tokens - len(self.generated) - queued
        return queued < STEPS_AHEAD and left > 0


class GpuEngine:
    """A TokenEngine over one sequence's cache of `context` positions."""

    def __init__(self, runner: Runner, *, context: int, prompt_cache: bool = True) -> None:
        self.context_length = context
        self._runner, self._prompt_cache = runner, prompt_cache
        self._waiting: deque[GenerationRequest] = deque()
        self._current: _Sequence | None = None
        self._in_cache: list[int] = []  # tokens whose keys and values the cache holds
        self._prompt_tokens = self._generated_tokens = 0
        self._queried_tokens = self._hit_tokens = 0

    def add(self, request: GenerationRequest) -> None:
        """Queue it behind the others."""
        length = len(request.prompt) + request.max_tokens
        if not request.prompt or length > self.context_length:
            raise ValueError(
                f"a prompt of {len(request.prompt)} tokens and {request.max_tokens} more do not "
                f"fit a context of {self.context_length}"
            )
        self._waiting.append(request)

    def abort(self, request_id: str) -> None:
        """Forget it; what it left in the cache may still serve the next prompt."""
        if self._current and self._current.request.request_id == request_id:
            self._current = None
            return
        kept = [request for request in self._waiting if request.request_id != request_id]
        self._waiting = deque(kept)

    def has_work(self) -> bool:
        """Whether a request is running or waiting."""
        return self._current is not None or bool(self._waiting)

    def step(self) -> Sequence[TokenOutput]:
        """A chunk of prompt, and if it was the last, or for one more token: the next token."""
        if self._current is None:
            self._current = self._begin(self._waiting.popleft())
        current = self._current
        if current.computed < len(current.request.prompt) and not self._prefill(current):
            return []
        while current.may_queue:
            current.tickets.append(self._runner.decode())
        return [self._receive(current)]

    def stats(self) -> EngineStats:
        """Counters since the start."""
        return EngineStats(
            running_requests=int(self._current is not None),
            waiting_requests=len(self._waiting),
            prompt_tokens_total=self._prompt_tokens,
            generated_tokens_total=self._generated_tokens,
            prefix_cache_queried_tokens_total=self._queried_tokens if self._prompt_cache else None,
            prefix_cache_hit_tokens_total=self._hit_tokens if self._prompt_cache else None,
        )

    def close(self) -> None:
        """Let the device finish."""
        self._runner.close()

    def _begin(self, request: GenerationRequest) -> _Sequence:
        """Keep what the cache shares with the prompt, but always compute its last token."""
        shared = 0
        if self._prompt_cache:
            pairs = zip(self._in_cache, request.prompt, strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            shared = min(same, len(request.prompt) - 1)
            self._queried_tokens += len(request.prompt)
            self._hit_tokens += shared
        del self._in_cache[shared:]
        self._prompt_tokens += len(request.prompt)
        self._runner.begin(request.prompt, request.sampling)
        return _Sequence(request, shared)

    def _prefill(self, current: _Sequence) -> bool:
        """Queue a chunk; after the last one the first token, which is the answer."""
        prompt = current.request.prompt
        end = min(len(prompt), current.computed + MAX_CHUNK_TOKENS)
        tokens = prompt[current.computed : end]
        self._runner.prefill(tokens, current.computed)
        current.computed = end
        self._in_cache += tokens
        if end == len(prompt):
            current.tickets.append(self._runner.choose())
        return end == len(prompt)

    def _receive(self, current: _Sequence) -> TokenOutput:
        """Wait for the oldest token that is queued."""
        request = current.request
        token = self._runner.token(current.tickets.popleft())
        if current.generated:  # the step that gave this token has cached the one before
            self._in_cache.append(current.generated[-1])
        current.generated.append(token)
        self._generated_tokens += 1
        reason: FinishReason | None = None
        if token in request.stop_token_ids:
            reason = "stop"
        elif len(current.generated) == request.max_tokens:
            reason = "length"
        if reason:
            self._current = None
        return TokenOutput(
            request.request_id,
            () if reason == "stop" else (token,),
            finish_reason=reason,
            cached_prompt_tokens=current.cached,
        )
