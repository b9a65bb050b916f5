"""Who guesses tokens ahead, so that several are verified in one pass: speculative decoding.

A guess changes how fast an answer comes, never the answer: each token is still chosen from the
model's own logits, and guesses after the first wrong one are dropped (arXiv 2211.17192, with the
token that the request's sampler draws as the test).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.ngrams import NgramDrafter
from enginebench_quant.slot import common_prefix

__all__ = ["DraftRunner", "Drafter", "ModelDrafter", "NgramDrafter"]

CHUNK_TOKENS = 128


class Drafter(Protocol):
    """Follows one request at a time."""

    def begin(self, prompt: Sequence[int]) -> None:
        """A new request."""
        ...

    def see(self, tokens: Sequence[int]) -> None:
        """What was chosen, behind all that it has seen."""
        ...

    def propose(self, count: int) -> Sequence[int]:
        """At most `count` tokens that may follow."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class DraftRunner(Protocol):
    """A model that guesses: `QuantModel`."""

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> NDArray[np.float32] | None: ...

    def close(self) -> None: ...


class ModelDrafter:
    """Guesses with a smaller model of the same vocabulary, greedily, while it is sure enough."""

    def __init__(self, runner: DraftRunner, *, most: int, context: int, least_p: float) -> None:
        self._runner, self._most = runner, most
        self._context, self._least_p = context, least_p
        self._text: list[int] = []
        self._in_cache: list[int] = []

    def begin(self, prompt: Sequence[int]) -> None:
        """See `Drafter`. The cache keeps what the prompt shares with the text before it."""
        self._text = list(prompt)

    def see(self, tokens: Sequence[int]) -> None:
        """See `Drafter`."""
        self._text += tokens

    def propose(self, count: int) -> Sequence[int]:
        """See `Drafter`."""
        count = min(count, self._most, self._context - len(self._text))
        guesses: list[int] = []
        logits = self._catch_up() if count > 0 else None
        while logits is not None and len(guesses) < count:
            token = int(logits.argmax())
            if 1.0 < self._least_p * float(np.exp(logits - logits[token]).sum()):
                break
            guesses.append(token)
            logits = None if len(guesses) == count else self._run([token])
        return guesses

    def close(self) -> None:
        """See `Drafter`."""
        self._runner.close()

    def _catch_up(self) -> NDArray[np.float32] | None:
        """Compute what the cache lacks of the text; the logits of its last token."""
        shared = min(common_prefix(self._in_cache, self._text), len(self._text) - 1)
        del self._in_cache[shared:]
        logits = None
        while len(self._in_cache) < len(self._text):
            begin = len(self._in_cache)
            end = min(len(self._text), begin + CHUNK_TOKENS)
            logits = self._run(self._text[begin:end], want_logits=end == len(self._text))
        return logits

    def _run(
        self, tokens: Sequence[int], *, want_logits: bool = True
    ) -> NDArray[np.float32] | None:
        begin = len(self._in_cache)
        self._in_cache += tokens
        return self._runner.forward(tokens, begin, want_logits=want_logits)
