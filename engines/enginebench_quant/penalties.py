"""What has been said makes tokens less likely: repetition, presence and frequency penalties; DRY.

Both remember the tokens of one request: `see` tells them of each that was chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.protocol import Dry, SamplingParams
from enginebench_quant.candidates import Candidates

__all__ = ["DryPenalty", "TokenPenalties"]


class TokenPenalties:
    """Repetition looks at prompt and output (CTRL, arXiv 1909.05858), presence and frequency at
    the output alone (OpenAI's API reference); all of them no further back than `penalty_last_n`.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], vocab_size: int) -> None:
        self._repetition = np.float32(params.repetition_penalty)
        self._presence = np.float32(params.presence_penalty)
        self._frequency = np.float32(params.frequency_penalty)
        self._near = np.zeros(vocab_size, np.int32)  # how often in prompt and output
        self._counts = np.zeros(vocab_size, np.float32)  # in the output
        last_n = params.penalty_last_n
        near = prompt if last_n is None else prompt[-last_n:]
        np.add.at(self._near, np.asarray(near, np.int64), 1)
        self._last_n = last_n
        self._window = deque(((token, False) for token in near) if last_n is not None else ())

    @staticmethod
    def wanted(params: SamplingParams) -> bool:
        """Whether any of them does anything."""
        is_additive = bool(params.presence_penalty or params.frequency_penalty)
        return params.repetition_penalty != 1 or is_additive

    def see(self, token: int) -> None:
        """It was chosen."""
        self._near[token] += 1
        self._counts[token] += 1
        if self._last_n is not None:
            self._window.append((token, True))
            if len(self._window) > self._last_n:
                self._forget(*self._window.popleft())

    def _forget(self, token: int, is_output: bool) -> None:
        self._near[token] -= 1
        self._counts[token] -= is_output

    def __call__(self, candidates: Candidates) -> Candidates:
        logits = candidates.logits.copy()
        seen = self._near[candidates.tokens] > 0
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / self._repetition, values * self._repetition)
        counts = self._counts[candidates.tokens]
        logits -= self._presence * (counts > 0) + self._frequency * counts
        return candidates.with_logits(logits)


class DryPenalty:
    """A token that would continue a repetition of n tokens loses multiplier * base ** (n - allowed)
    ("don't repeat yourself", as proposed by p-e-w for text-generation-webui).

    n is the longest stretch at the end of the text that stood before an earlier occurrence of the
    token; it crosses no breaker and does not leave the last `penalty_last_n` tokens.
    """

    def __init__(self, dry: Dry, prompt: Sequence[int]) -> None:
        self._dry = dry
        self._text = np.array(prompt, np.int64)
        self._matches = self._first_matches()

    def see(self, token: int) -> None:
        """It was chosen. What ends before position i + 1 grew if the token at i is this one."""
        if token in self._dry.breakers:
            grown = np.zeros_like(self._matches)
        else:
            grown = np.where(self._text == token, self._matches + 1, 0)
        self._matches = np.concatenate([np.zeros(1, np.int64), grown])
        self._text = np.append(self._text, token)

    def __call__(self, candidates: Candidates) -> Candidates:
        """Only tokens that did occur after a match that is long enough are touched."""
        dry, size = self._dry, self._text.size
        first = 0 if dry.penalty_last_n is None else max(0, size - dry.penalty_last_n)
        lengths = np.minimum(self._matches[first:], np.arange(size - first))
        found = np.flatnonzero(lengths >= dry.allowed_length)
        if not found.size:
            return candidates
        followers = self._text[first + found]
        longest = np.zeros(int(candidates.tokens[-1]) + 1, np.int64)
        is_candidate = followers < longest.size
        np.maximum.at(longest, followers[is_candidate], lengths[found][is_candidate])
        own = longest[candidates.tokens]
        exponents = np.where(own > 0, own - dry.allowed_length, 0).astype(np.float64)
        with np.errstate(over="ignore"):
            penalty = np.where(own > 0, dry.multiplier * dry.base**exponents, 0.0)
        penalty = np.minimum(penalty, np.finfo(np.float32).max / 4)
        return candidates.with_logits((candidates.logits - penalty).astype(np.float32))

    def _first_matches(self) -> NDArray[np.int64]:
        """For each position i, how many tokens before i are the same as at the end of the text."""
        text = self._text
        matches = np.zeros(text.size, np.int64)
        alive = np.arange(1, text.size)
        length = 0
        while alive.size and int(text[-1 - length]) not in self._dry.breakers:
            alive = alive[text[alive - 1 - length] == text[-1 - length]]
            length += 1
            matches[alive] = length
            alive = alive[alive > length]
        return matches
