"""The one place where a request is served: who waits for it, what its cache holds, what it counted.

Requests come first in, first out. The cache of the last request is kept: what the next prompt
shares with it is not computed again. Knows tokens and positions, but computes nothing: engines ask
it what to do and tell it what came of it.

    slot.add(request)
    sequence = slot.begin()            # the next one; sequence.computed of its prompt are cached
    slot.cached(tokens)                # their keys and values are in the cache now
    slot.answer(sequence, [token])     # what the server hears
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from enginebench_openai.protocol import (
    EngineStats,
    FinishReason,
    GenerationRequest,
    TokenLogprob,
    TokenOutput,
)

__all__ = ["ServedSequence", "Slot", "common_prefix"]


class ServedSequence:
    """The request that is being served: `computed` of its tokens went through the model.

    They are in the cache, but for the `forgotten` ones.
    """

    __slots__ = ("cached", "computed", "forgotten", "generated", "request")

    def __init__(self, request: GenerationRequest, cached: int) -> None:
        self.request = request
        self.cached = self.computed = cached
        self.generated: list[int] = []
        self.forgotten = 0

    @property
    def position(self) -> int:
        """Where in the cache the next token goes."""
        return self.computed - self.forgotten

    @property
    def left(self) -> int:
        """Tokens that it may still generate."""
        return self.request.max_tokens - len(self.generated)


class Slot:
    """Waiting requests, at most one that is served, and the tokens in the cache of `context`.

    With `keep_tokens` the context may be shifted: an answer is as long as it wants, and of a full
    cache half is forgotten, behind the first `keep_tokens`.
    """

    def __init__(self, context: int, *, prompt_cache: bool, keep_tokens: int | None = None) -> None:
        self.context, self._prompt_cache = context, prompt_cache
        self._keep_tokens = keep_tokens
        self._exact: int | None = None  # how many of `in_cache` know of nothing forgotten
        self.current: ServedSequence | None = None
        self.in_cache: list[int] = []  # tokens whose keys and values the cache holds
        self._waiting: deque[GenerationRequest] = deque()
        self._prompt_tokens = self._generated_tokens = 0
        self._queried_tokens = self._hit_tokens = 0

    def add(self, request: GenerationRequest) -> None:
        """Queue it behind the others; ValueError if it can never be served."""
        output = request.max_tokens if self._keep_tokens is None else min(request.max_tokens, 1)
        length = len(request.prompt) + output
        if not request.prompt or length > self.context:
            raise ValueError(
                f"a prompt of {len(request.prompt)} tokens and {output} more do not "
                f"fit a context of {self.context}"
            )
        self._waiting.append(request)

    def abort(self, request_id: str) -> None:
        """Forget it; what it left in the cache may still serve the next prompt."""
        if self.current and self.current.request.request_id == request_id:
            self.current = None
            return
        kept = [request for request in self._waiting if request.request_id != request_id]
        self._waiting = deque(kept)

    def has_work(self) -> bool:
        """Whether a request is running or waiting."""
        return self.current is not None or bool(self._waiting)

    def begin(self) -> ServedSequence:
        """Serve the next one: keep what the cache shares with its prompt, less its last token."""
        request = self._waiting.popleft()
        self.keep(self.reusable)
        shared = 0
        if self._prompt_cache and request.prompt_logprobs is None and request.pooling is None:
            shared = min(common_prefix(self.in_cache, request.prompt), len(request.prompt) - 1)
            self._queried_tokens += len(request.prompt)
            self._hit_tokens += shared
        self.keep(shared)
        self._prompt_tokens += len(request.prompt)
        self.current = ServedSequence(request, shared)
        return self.current

    def cached(self, tokens: Sequence[int]) -> None:
        """The cache holds these as well, behind the others."""
        self.in_cache += tokens

    @property
    def reusable(self) -> int:
        """How many of the first tokens in the cache are as if nothing had come before them."""
        return len(self.in_cache) if self._exact is None else self._exact

    def make_room(self, sequence: ServedSequence) -> tuple[int, int] | None:
        """Begin and end of what must be forgotten before its next token; None while there is room.

        Half of what is not kept goes. The tokens are forgotten here at once.
        """
        if self._keep_tokens is None or sequence.position < self.context:
            return None
        begin = self._keep_tokens
        end = begin + max(1, (self.context - begin) // 2)
        del self.in_cache[begin:end]
        sequence.forgotten += end - begin
        self._exact = begin
        return begin, end

    def replace_cached(self, tokens: Sequence[int]) -> None:
        """The cache holds these now, and nothing else."""
        self.in_cache, self._exact = list(tokens), None

    def keep(self, count: int) -> None:
        """Forget all that the cache holds from position `count` on."""
        del self.in_cache[count:]
        if self._exact is not None and count <= self._exact:
            self._exact = None

    def answer(
        self,
        sequence: ServedSequence,
        tokens: Sequence[int],
        *,
        logprobs: Sequence[TokenLogprob] = (),
        is_complete: bool = False,
    ) -> TokenOutput:
        """New tokens of `sequence`, up to where it ends; if it ends, the slot is free.

        `is_complete`: nothing can follow the last of `tokens`, whatever it is.
        """
        request, shown = sequence.request, []
        reason: FinishReason | None = None
        for token in tokens[: sequence.left]:
            sequence.generated.append(token)
            self._generated_tokens += 1
            if token in request.stop_token_ids:
                reason = "stop"
                break
            shown.append(token)
        if reason is None and is_complete:
            reason = "stop"
        if reason is None and not sequence.left:
            reason = "length"
        if reason:
            self.current = None
        return TokenOutput(
            request.request_id,
            tuple(shown),
            finish_reason=reason,
            cached_prompt_tokens=sequence.cached,
            logprobs=tuple(logprobs[: len(shown)]),
        )

    def embedded(self, sequence: ServedSequence, embedding: Sequence[float]) -> TokenOutput:
        """The answer to a prompt that is embedded; the slot is free."""
        self.current = None
        return TokenOutput(
            sequence.request.request_id, (), finish_reason="stop", embedding=tuple(embedding)
        )

    def stats(self) -> EngineStats:
        """Counters since the start."""
        return EngineStats(
            running_requests=int(self.current is not None),
            waiting_requests=len(self._waiting),
            prompt_tokens_total=self._prompt_tokens,
            generated_tokens_total=self._generated_tokens,
            prefix_cache_queried_tokens_total=self._queried_tokens if self._prompt_cache else None,
            prefix_cache_hit_tokens_total=self._hit_tokens if self._prompt_cache else None,
        )


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two begin with alike."""
    length = min(len(first), len(second))
    for index in range(length):
        if first[index] != second[index]:
            return index
    return length
