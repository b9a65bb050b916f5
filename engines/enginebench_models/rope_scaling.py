"""How rotary frequencies are stretched for contexts longer than those of training.

Angles are a position times a frequency; some ways also multiply cosines and sines (`magnitude`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["RopeScaling"]

Frequencies = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """One way and its numbers.

    `linear` divides all frequencies by `factor`; `llama3` divides the low ones and blends the
    middle; `yarn` does so between `beta_fast` and `beta_slow` turns (arXiv 2309.00071). `factors`
    divides the i-th by `frequency_factors[i]` (GGUF: the tensor `rope_freqs.weight`), `longrope` by
    `long_frequency_factors[i]` where the context is longer than the original one.
    """

    kind: Literal["linear", "llama3", "yarn", "factors", "longrope"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    frequency_factors: tuple[float, ...] = ()
    long_frequency_factors: tuple[float, ...] = ()
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float = 1.0

    def apply(self, frequencies: Frequencies, theta: float, context_length: int) -> Frequencies:
        """The scaled frequencies, in radians per position, for a run of `context_length`."""
        match self.kind:
            case "linear":
                return frequencies / self.factor
            case "factors":
                return frequencies / np.array(self.frequency_factors, np.float64)
            case "longrope":
                is_long = context_length > self.original_context_length
                factors = self.long_frequency_factors if is_long else self.frequency_factors
                return frequencies / np.array(factors, np.float64)
            case "llama3":
                return self._blend(frequencies, self._llama3_kept(frequencies))
            case "yarn":
                return self._blend(frequencies, self._yarn_kept(len(frequencies), theta))

    def _blend(self, frequencies: Frequencies, kept: Frequencies) -> Frequencies:
        """Where `kept` is 1 a frequency stays, where it is 0 it is stretched whole."""
        return (1 - kept) * frequencies / self.factor + kept * frequencies

    def _llama3_kept(self, frequencies: Frequencies) -> Frequencies:
        turns = self.original_context_length * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return np.clip(kept, 0, 1)

    def _yarn_kept(self, count: int, theta: float) -> Frequencies:
        low = max(math.floor(self._turning(self.beta_fast, count, theta)), 0)
        high = min(math.ceil(self._turning(self.beta_slow, count, theta)), 2 * count - 1)
        span = high - low if high != low else 0.001
        return 1 - np.clip((np.arange(count, dtype=np.float64) - low) / span, 0, 1)

    def _turning(self, turns: float, count: int, theta: float) -> float:
        """The index of the frequency that turns so often within the original context."""
        wave = self.original_context_length / (turns * 2 * math.pi)
        return count * math.log(wave) / math.log(theta)
