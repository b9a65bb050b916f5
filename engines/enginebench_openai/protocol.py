"""What an engine must be for the server in this package to serve it.

A `TokenEngine` is synchronous and needs no locks: the server calls all of its methods from one
thread of its own. It knows tokens, never text: the server tokenizes, detokenizes and watches for
stop strings. `echo.py` beside this file is the smallest whole implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

__all__ = [
    "EngineStats",
    "FinishReason",
    "GenerationRequest",
    "SamplingParams",
    "TimedEngine",
    "TokenEngine",
    "TokenOutput",
]

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. `temperature` 0 is greedy and ignores the filters.

    Order: penalties, temperature, top-k, top-p, min-p (each off at its default).
    `repetition_penalty` is that of CTRL (arXiv 1909.05858), `presence_penalty` and
    `frequency_penalty` are OpenAI's. `seed` None draws a fresh one.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue.

    `prompt` is not empty and `len(prompt) + max_tokens` fits the context: the server checks both.
    A token in `stop_token_ids` ends the request; it is part of the output unless it is the last.
    Empty `stop_token_ids` is how `ignore_eos` arrives.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What one step gave one request: zero or more new tokens, and how it ended if it did.

    `token_ids` never holds the stop token itself. `error` is set with finish_reason "error".
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    cached_prompt_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /metrics. Token and event counts only ever grow; None: not applicable."""

    running_requests: int
    waiting_requests: int
    prompt_tokens_total: int
    generated_tokens_total: int
    kv_blocks_total: int | None = None
    kv_blocks_used: int | None = None
    prefix_cache_queried_tokens_total: int | None = None
    prefix_cache_hit_tokens_total: int | None = None
    preemptions_total: int | None = None


class TokenEngine(Protocol):
    """Continues token sequences, one step at a time."""

    context_length: int

    def add(self, request: GenerationRequest) -> None:
        """Queue a request. Never blocks; raises ValueError if it can never be served."""
        ...

    def abort(self, request_id: str) -> None:
        """Forget a request and free what it holds; unknown ids are ignored. It yields no more."""
        ...

    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        ...

    def step(self) -> Sequence[TokenOutput]:
        """Do one bounded piece of work (about 100 ms at most) and return what is new."""
        ...

    def stats(self) -> EngineStats:
        """Counters and gauges; cheap."""
        ...

    def close(self) -> None:
        """Free everything; called once, last."""
        ...


@runtime_checkable
class TimedEngine(TokenEngine, Protocol):
    """An engine whose next work is due at a known time, not now: `echo`.

    The server waits that long for new requests before it calls `step`, so that a request which
    arrives meanwhile is added at once. Engines that always have something to compute need no such
    thing.
    """

    def due_in_s(self) -> float:
        """Seconds until `step` has something to do; asked only while `has_work()`."""
        ...
