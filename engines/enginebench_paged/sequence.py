"""A request on its way through the engine: its tokens, and how far they have been computed.

Lives on the host and is pure Python. A sampled token exists on the device one step before the host
knows it (`in_flight`), so a sequence's `length` may run ahead of `tokens`: scheduling needs
lengths only.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, Protocol

from enginebench_openai.protocol import FinishReason, GenerationRequest

__all__ = ["Drafter", "Matcher", "Sequence"]


class Matcher(Protocol):
    """What a sequence needs of `enginebench_openai.grammar.GrammarMatcher`."""

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        ...

    def accept(self, token_id: int) -> None:
        """A token was drawn."""
        ...

    def fill(self, words: Any) -> None:
        """Write the allowed tokens as packed bits, int32."""
        ...


class Drafter(Protocol):
    """Who guesses what follows: `enginebench_openai.ngrams.NgramDrafter`."""

    def see(self, tokens: Seq[int]) -> None:
        """What follows all that it has seen."""
        ...

    def propose(self, count: int) -> Seq[int]:
        """At most `count` tokens that may follow."""
        ...


class Sequence:
    """The state of one request. The scheduler is the only one that changes it.

    tokens        prompt and generated ids that the host knows
    in_flight     tokens sampled by launched steps whose ids the host has not seen yet
    computed      leading positions whose keys and values launched steps have written
    blocks        the block table: block `i` holds positions `i * block_size` and up
    hashes        chain hashes of the leading full blocks of `tokens`
    registered    leading blocks that were offered to the prefix cache
    slot          stable index of its state on the device; None while it waits
    matcher       where its output stands in the request's grammar, if it has one
    drafter       who guesses its next tokens; None: nobody
    verifying     whether a launched step computes guesses: nothing follows before it is known
    scored        leading positions of the prompt whose logprobs were given out
    asks          whether it asks for more than tokens from the bare logits; most do not
    seed          fixed for the request's life, so that a preemption changes nothing
    """

    __slots__ = (
        "_shown",
        "admitted",
        "asks",
        "blocks",
        "cached_prompt_tokens",
        "computed",
        "drafter",
        "finish_reason",
        "hashes",
        "in_flight",
        "matcher",
        "prompt_length",
        "registered",
        "request",
        "scored",
        "seed",
        "slot",
        "tokens",
        "verifying",
    )

    def __init__(
        self,
        request: GenerationRequest,
        seed: int = 0,
        matcher: Matcher | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.request = request
        self.seed = seed
        self.matcher = matcher
        self.drafter = drafter
        self._shown = 0  # leading tokens that the drafter has seen
        self.verifying = False
        self.scored = 1  # nothing precedes the first token
        self.asks = self.needs_all_positions or self.is_constrained or request.logprobs is not None
        self.tokens = list(request.prompt)
        self.prompt_length = len(self.tokens)
        self.in_flight = 0
        self.computed = 0
        self.blocks: list[int] = []
        self.hashes: list[bytes] = []
        self.registered = 0
        self.slot: int | None = None
        self.admitted = False  # at least once
        self.cached_prompt_tokens = 0
        self.finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """Tokens known to the host or to the device."""
        return len(self.tokens) + self.in_flight

    @property
    def max_length(self) -> int:
        """Tokens that it can ever have."""
        return self.prompt_length + self.request.max_tokens

    @property
    def needs_all_positions(self) -> bool:
        """Whether every position of the prompt must be computed, whatever a cache holds."""
        return self.request.prompt_logprobs is not None or self.request.pooling is not None

    @property
    def is_constrained(self) -> bool:
        """Whether it says anything about single tokens."""
        request = self.request
        return bool(self.matcher or request.min_tokens or request.sampling.logit_bias)

    @property
    def is_penalized(self) -> bool:
        """Whether what was said changes what is likely."""
        sampling = self.request.sampling
        return (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
        )

    @property
    def todo(self) -> int:
        """Positions to compute before the next token is sampled; 0: all are sampled, or being."""
        if self.verifying or self.length >= self.max_length:
            return 0
        return self.length - self.computed

    def propose(self, most: int) -> tuple[int, ...]:
        """At most so many guesses of what follows, where all its tokens are known."""
        if self.drafter is None or self.in_flight or most < 1:
            return ()
        self.drafter.see(self.tokens[self._shown :])
        self._shown = len(self.tokens)
        return tuple(self.drafter.propose(most))

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.request.request_id} {self.computed}/{self.length} of"
            f" {self.max_length} slot={self.slot}>"
        )
