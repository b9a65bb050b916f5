"""What an engine must be for the server in this package to serve it.

A `TokenEngine` is synchronous and needs no locks: the server calls all of its methods from one
thread of its own. It knows tokens, never text: the server tokenizes, detokenizes and watches for
stop strings. `echo.py` beside this file is the smallest whole implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from enginebench_openai.features import Feature
from enginebench_openai.sampling import Dry, DynamicTemperature, Mirostat, SamplingParams, Xtc

__all__ = [
    "Dry",
    "DynamicTemperature",
    "EngineStats",
    "Feature",
    "FinishReason",
    "GenerationRequest",
    "Grammar",
    "GrammarKind",
    "Mirostat",
    "Pooling",
    "SamplingParams",
    "TimedEngine",
    "TokenEngine",
    "TokenLogprob",
    "TokenOutput",
    "Xtc",
]

FinishReason = Literal["stop", "length", "abort", "error"]
GrammarKind = Literal["json_object", "json_schema", "regex", "lark", "gbnf"]
Pooling = Literal["mean", "last"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must match; `grammar.py` makes a matcher of it in the engine's process.

    `text` is a JSON schema, a regular expression, or a grammar in Lark or GBNF; "" for
    "json_object".
    """

    kind: GrammarKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue.

    `prompt` is not empty and `len(prompt) + max_tokens` fits the context: the server checks both
    (only the prompt must fit where the engine has `Feature.CONTEXT_SHIFT`).
    A token in `stop_token_ids` ends the request; it is part of the output unless it is the last.
    Empty `stop_token_ids` is how `ignore_eos` arrives. The rest needs a `Feature` each:

    - Until there are `min_tokens` tokens of output, none of `stop_token_ids` may be drawn.
    - `logprobs` asks for each output token's logprob and that many alternatives (0 is allowed).
    - `prompt_logprobs` asks the same of the prompt's tokens, which then come from no cache.
    - With a `grammar`, tokens that break it may not be drawn; a complete output allows
      `stop_token_ids`, and one that nothing may follow ends with "stop" by itself.
    - With `pooling` the prompt is embedded instead of continued: `max_tokens` is 0, and the only
      output has an `embedding`, no tokens and the reason "stop".
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    pooling: Pooling | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model found one token: natural logarithms of the softmax of the model's own
    logits, before bias, penalties, temperature and grammar.

    `top` holds the likeliest (token id, logprob), likeliest first, lower id first where equal; as
    many as asked for, whether the token is among them or not.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What one step gave one request: zero or more new tokens, and how it ended if it did.

    `token_ids` never holds the stop token itself. `error` is set with finish_reason "error".
    `logprobs` has one entry for each of `token_ids`, or none where none were asked for.
    `prompt_logprobs` are those of the prompt's second token on; they may come in portions, in
    order, the last of them no later than the first token. `embedding` has length 1.
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    cached_prompt_tokens: int = 0
    error: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    embedding: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /metrics. Token and event counts only ever grow; None: not applicable."""

    running_requests: int
    waiting_requests: int
    prompt_tokens_total: int
    generated_tokens_total: int
    kv_blocks_total: int | None = None
    kv_blocks_used: int | None = None
    kv_slots_held: int | None = None  # tokens that the blocks of running requests have room for
    kv_slots_filled: int | None = None  # those of them that hold keys and values
    prefix_cache_queried_tokens_total: int | None = None
    prefix_cache_hit_tokens_total: int | None = None
    preemptions_total: int | None = None
    draft_tokens_total: int | None = None
    accepted_draft_tokens_total: int | None = None


class TokenEngine(Protocol):
    """Continues token sequences, one step at a time.

    `features` says what it can do beyond `SamplingParams`' basic fields (up to `seed`).
    """

    context_length: int

    @property
    def features(self) -> frozenset[Feature]:
        """What requests may ask for; the server refuses the rest."""
        ...

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
