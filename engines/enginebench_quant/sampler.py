"""Chooses the next token from logits, as `SamplingParams` says.

The repetition penalty looks at the whole context, presence and frequency at what was generated. A
seed makes a request's choices repeatable whatever ran before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.protocol import SamplingParams

__all__ = ["Sampler"]

Floats = NDArray[np.float32]


class Sampler:
    """The choices of one request; it remembers what the penalties need."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._params = params
        self._random = np.random.default_rng(params.seed)
        self._seen = set(prompt)
        self._generated: Counter[int] = Counter()

    def sample(self, logits: Floats) -> int:
        """The next token; `logits` (vocabulary,) is left alone."""
        params = self._params
        logits = self._penalized(logits)
        if params.temperature == 0:
            token = int(np.argmax(logits))
        else:
            token = self._draw(logits / np.float32(params.temperature))
        self._seen.add(token)
        self._generated[token] += 1
        return token

    def _penalized(self, logits: Floats) -> Floats:
        params = self._params
        is_repetition = params.repetition_penalty != 1
        is_additive = bool(params.presence_penalty or params.frequency_penalty)
        if not is_repetition and not (is_additive and self._generated):
            return logits
        logits = logits.copy()
        if is_repetition:
            seen = np.fromiter(self._seen, np.int64)
            values, penalty = logits[seen], np.float32(params.repetition_penalty)
            logits[seen] = np.where(values > 0, values / penalty, values * penalty)
        if is_additive and self._generated:
            tokens = np.fromiter(self._generated, np.int64)
            counts = np.fromiter(self._generated.values(), np.float32)
            logits[tokens] -= params.presence_penalty + params.frequency_penalty * counts
        return logits

    def _draw(self, logits: Floats) -> int:
        tokens = _largest(logits, self._params.top_k)
        kept = logits if tokens is None else logits[tokens]
        probabilities = np.exp(kept - kept.max())
        probabilities /= probabilities.sum()
        self._drop_tail(probabilities)
        cumulative = np.cumsum(probabilities, dtype=np.float64)
        point = self._random.random() * cumulative[-1]
        index = int(np.searchsorted(cumulative, point, side="right"))
        return index if tokens is None else int(tokens[index])

    def _drop_tail(self, probabilities: Floats) -> None:
        """Zero what top-p and min-p leave out; the most likely token always stays."""
        if self._params.top_p < 1:
            probabilities[_outside_nucleus(probabilities, self._params.top_p)] = 0
        if self._params.min_p > 0:
            probabilities[probabilities < self._params.min_p * probabilities.max()] = 0


def _largest(logits: Floats, count: int | None) -> NDArray[np.int64] | None:
    """Indices of the `count` largest logits in token order; None: all."""
    if count is None or count >= logits.size:
        return None
    return np.sort(np.argpartition(logits, -count)[-count:])


def _outside_nucleus(probabilities: Floats, top_p: float) -> NDArray[np.int64]:
    """All but the fewest likeliest tokens whose probabilities sum to `top_p`."""
    order = np.argsort(-probabilities, kind="stable")
    reached = np.cumsum(probabilities[order], dtype=np.float64)
    return order[int(np.searchsorted(reached, top_p)) + 1 :]
