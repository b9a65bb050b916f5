"""The engine: one request at a time, first in, first out, on a `QuantModel`.

A step is a chunk of prompt or one token, so that an abort never waits long. The cache of the last
request is kept: what the next prompt shares with it is not computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.protocol import EngineStats, FinishReason, GenerationRequest, TokenOutput
from enginebench_quant.sampler import Sampler

__all__ = ["QuantEngine", "Runner"]

CHUNK_TOKENS = 128


class Runner(Protocol):
    """What the engine needs of a model: `QuantModel`, or a stand-in in tests."""

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> NDArray[np.float32] | None: ...

    def close(self) -> None: ...


class _Sequence:
    """The request that is being served: `computed` of its `tokens` are in the cache."""

    __slots__ = ("cached", "computed", "generated", "request", "sampler", "tokens")

    def __init__(self, request: GenerationRequest, cached: int) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        self.cached = self.computed = cached
        self.generated = 0
        self.sampler = Sampler(request.sampling, request.prompt)


class QuantEngine:
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
        """A chunk of prompt, which yields a token only if it was the last, or one more token."""
        if self._current is None:
            self._current = self._begin(self._waiting.popleft())
        current = self._current
        logits = self._advance(current)
        return [] if logits is None else [self._choose(current, logits)]

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
        """Stop the model's threads."""
        self._runner.close()

    def _begin(self, request: GenerationRequest) -> _Sequence:
        """Keep what the cache shares with the prompt, but always compute its last token."""
        shared = 0
        if self._prompt_cache:
            shared = min(_common_prefix(self._in_cache, request.prompt), len(request.prompt) - 1)
            self._queried_tokens += len(request.prompt)
            self._hit_tokens += shared
        del self._in_cache[shared:]
        self._prompt_tokens += len(request.prompt)
        return _Sequence(request, shared)

    def _advance(self, current: _Sequence) -> NDArray[np.float32] | None:
        """Compute the next tokens of `current`; logits if they were the last there are."""
        end = min(len(current.tokens), current.computed + CHUNK_TOKENS)
        tokens = current.tokens[current.computed : end]
        is_last = end == len(current.tokens)
        logits = self._runner.forward(tokens, current.computed, want_logits=is_last)
        current.computed = end
        self._in_cache += tokens
        return logits

    def _choose(self, current: _Sequence, logits: NDArray[np.float32]) -> TokenOutput:
        request = current.request
        token = current.sampler.sample(logits)
        current.tokens.append(token)
        current.generated += 1
        self._generated_tokens += 1
        reason: FinishReason | None = None
        if token in request.stop_token_ids:
            reason = "stop"
        elif current.generated == request.max_tokens:
            reason = "length"
        if reason:
            self._current = None
        return TokenOutput(
            request.request_id,
            () if reason == "stop" else (token,),
            finish_reason=reason,
            cached_prompt_tokens=current.cached,
        )


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two begin with alike."""
    length = min(len(first), len(second))
    for index in range(length):
        if first[index] != second[index]:
            return index
    return length
