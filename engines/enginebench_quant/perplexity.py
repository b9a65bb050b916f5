"""How well a model predicts a text, and how far its predictions are from another model's.

The text is cut into windows of `context` tokens. Predictions in the first half of a window, which
see little, are not scored; those in the second half are. (That is how llama.cpp's perplexity tool
does it, so figures compare.) Knows logits only: where they come from is the scorers' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import UsageError

__all__ = ["Divergence", "Perplexity", "Scorer", "Windows", "compare", "cut", "measure"]

Logits = NDArray[np.float32]  # (vocabulary,)


class Scorer(Protocol):
    """A model that computes logits of a window of tokens."""

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """Of each token from index `first` on; an array may be overwritten by the next."""
        ...


@dataclass(frozen=True, slots=True)
class Windows:
    """The parts of a text that are scored, `context` tokens each."""

    tokens: list[list[int]]
    context: int

    @property
    def first(self) -> int:
        """Index of the first token whose prediction of the next one counts."""
        return self.context // 2

    @property
    def n_scored(self) -> int:
        """Predictions that count, in all windows."""
        return len(self.tokens) * (self.context - 1 - self.first)


def cut(
    tokens: Sequence[int], context: int, *, bos_id: int | None, limit: int | None = None
) -> Windows:
    """Whole windows only, at most `limit`; each starts with `bos_id` if there is one.

    UsageError if the text does not fill one.
    """
    if len(tokens) < context:
        raise UsageError(
            f"the text has {len(tokens)} tokens, less than one window of {context}; "
            "take a longer one, or lower --context"
        )
    starts = range(0, len(tokens) - context + 1, context)[:limit]
    windows = [list(tokens[start : start + context]) for start in starts]
    if bos_id is not None:
        for window in windows:
            window[0] = bos_id
    return Windows(windows, context)


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The exponential of the mean surprise in nats, and its standard error."""

    value: float
    error: float
    n_scored: int

    @classmethod
    def of(cls, surprises: NDArray[np.float64]) -> Perplexity:
        value = math.exp(float(surprises.mean()))
        return cls(value, value * _standard_error(surprises), surprises.size)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Kullback-Leibler divergence of a model's predictions from a reference's, in nats a token.

    `same_top`: the share of tokens for which both find the same token most likely.
    """

    mean: float
    error: float
    median: float
    percentile_99: float
    largest: float
    same_top: float


def measure(scorer: Scorer, windows: Windows, progress: Callable[[int], None]) -> Perplexity:
    """`progress` hears of each window that is done."""
    surprises = []
    for index, window in enumerate(windows.tokens):
        targets = window[windows.first + 1 :]
        for logits, target in zip(_scored(scorer, window, windows), targets, strict=True):
            surprises.append(-_log_probabilities(logits)[target])
        progress(index + 1)
    return Perplexity.of(np.array(surprises))


def compare(
    scorer: Scorer, reference: Scorer, windows: Windows, progress: Callable[[int], None]
) -> tuple[Perplexity, Perplexity, Divergence]:
    """Of the model, of the reference, and how far the first is from the second."""
    rows = []
    for index, window in enumerate(windows.tokens):
        targets = window[windows.first + 1 :]
        pairs = zip(
            _scored(scorer, window, windows), _scored(reference, window, windows), strict=True
        )
        for (own, other), target in zip(pairs, targets, strict=True):
            rows.append(_compare_token(own, other, target))
        progress(index + 1)
    own_surprises, other_surprises, divergences, same = np.array(rows).T
    return (
        Perplexity.of(own_surprises),
        Perplexity.of(other_surprises),
        Divergence(
            mean=float(divergences.mean()),
            error=_standard_error(divergences),
            median=float(np.median(divergences)),
            percentile_99=float(np.quantile(divergences, 0.99)),
            largest=float(divergences.max()),
            same_top=float(same.mean()),
        ),
    )


def _scored(scorer: Scorer, window: list[int], windows: Windows) -> Iterator[Logits]:
    """Logits that predict a token of the window: the last token predicts none."""
    return scorer.logits(window[:-1], windows.first)


def _compare_token(own: Logits, other: Logits, target: int) -> tuple[float, float, float, bool]:
    """Both surprises, the divergence of `own` from `other`, and whether their tops agree."""
    log_own, log_other = _log_probabilities(own), _log_probabilities(other)
    divergence = float(np.sum(np.exp(log_other) * (log_other - log_own)))
    same = bool(own.argmax() == other.argmax())
    return -float(log_own[target]), -float(log_other[target]), max(divergence, 0.0), same


def _log_probabilities(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= math.log(np.exp(shifted).sum())
    return shifted


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.inf
