"""The tokens that may still be chosen, and the filters that leave fewer of them.

Each filter takes candidates and gives those that remain, in order of their ids; the likeliest one
always stays. Each says where it comes from. Penalties are in `penalties.py`, the chain that calls
all of them in `sampler.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidates", "heat", "min_p", "top_k", "top_p", "typical_p", "warm", "xtc"]

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Token ids in ascending order, and their logits."""

    tokens: Ids
    logits: Floats

    @classmethod
    def of(cls, logits: Floats) -> Candidates:
        """A whole vocabulary."""
        return cls(np.arange(logits.size), logits)

    def probabilities(self) -> Floats:
        """Their softmax."""
        values: Floats = np.exp(self.logits - self.logits.max())
        values /= values.sum()
        return values

    def keep(self, which: Mask | Ids) -> Candidates:
        """Those that are True, or at these indices, which must ascend."""
        return Candidates(self.tokens[which], self.logits[which])

    def with_logits(self, logits: Floats) -> Candidates:
        """The same tokens with other logits."""
        return Candidates(self.tokens, logits)


def heat(candidates: Candidates, temperature: float) -> Candidates:
    """Logits over the temperature, which is above 0."""
    return candidates.with_logits(candidates.logits / np.float32(temperature))


def warm(candidates: Candidates, middle: float, range: float, exponent: float) -> Candidates:
    """Dynamic temperature: hotter where the model is less certain.

    From max(0, middle - range) to middle + range with (entropy / largest entropy) ** exponent.
    As koboldcpp and text-generation-webui have it (kalomaze's entropy sampling).
    """
    if candidates.tokens.size == 1:
        return candidates
    share = _entropy(candidates.logits) / math.log(candidates.tokens.size)
    lowest = max(0.0, middle - range)
    temperature = lowest + (middle + range - lowest) * min(1.0, max(0.0, share)) ** exponent
    if temperature < np.finfo(np.float32).tiny:
        return candidates.keep(np.array([candidates.logits.argmax()]))
    return heat(candidates, temperature)


def top_k(candidates: Candidates, count: int) -> Candidates:
    """The `count` likeliest (arXiv 1805.04833)."""
    if count >= candidates.tokens.size:
        return candidates
    return candidates.keep(np.sort(np.argpartition(candidates.logits, -count)[-count:]))


def top_p(candidates: Candidates, share: float) -> Candidates:
    """The fewest likeliest tokens whose probabilities sum to `share` (arXiv 1904.09751)."""
    probabilities = candidates.probabilities()
    return candidates.keep(_fewest(np.argsort(-probabilities, kind="stable"), probabilities, share))


def min_p(candidates: Candidates, share: float) -> Candidates:
    """Those at least `share` times as likely as the likeliest (arXiv 2407.01082)."""
    probabilities = candidates.probabilities()
    return candidates.keep(probabilities >= share * probabilities.max())


def typical_p(candidates: Candidates, share: float) -> Candidates:
    """The fewest tokens, those first whose surprise is nearest to the entropy, whose probabilities
    sum to `share` (arXiv 2202.00666).
    """
    probabilities = candidates.probabilities()
    with np.errstate(divide="ignore"):
        distance = np.abs(-np.log(probabilities) - _entropy(candidates.logits))
    return candidates.keep(_fewest(np.argsort(distance, kind="stable"), probabilities, share))


def xtc(candidates: Candidates, threshold: float) -> Candidates:
    """Drop all tokens at or above `threshold` but the least likely of them ("exclude top choices",
    as proposed by p-e-w for text-generation-webui). Nothing happens where fewer than two are.
    """
    probabilities = candidates.probabilities()
    top = np.flatnonzero(probabilities >= threshold)
    if top.size < 2:
        return candidates
    kept = np.ones(probabilities.size, np.bool_)
    kept[top] = False
    kept[top[probabilities[top].argmin()]] = True
    return candidates.keep(kept)


def _fewest(order: Ids, probabilities: Floats, share: float) -> Ids:
    """As many in `order` as it takes to reach `share`, at least one; ascending."""
    reached = np.cumsum(probabilities[order], dtype=np.float64)
    return np.sort(order[: int(np.searchsorted(reached, share)) + 1])


def _entropy(logits: Floats) -> float:
    """Of their softmax, in nats; in float64, since that of a sure model is all rounding else."""
    below = logits.astype(np.float64) - float(logits.max())
    weights = np.exp(below)
    total = float(weights.sum())
    below[weights == 0] = 0.0  # -inf times nothing is nothing
    return math.log(total) - float((weights * below).sum()) / total
