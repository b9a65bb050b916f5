"""Guesses that a stretch of the text is being repeated: prompt lookup, which costs next to nothing.

An engine verifies the guesses, several in one pass; a wrong one costs time, never the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["NgramDrafter"]

NGRAM_SIZES: Final = (4, 3, 2)  # the longest that stood there before decides


class NgramDrafter:
    """Follows one text at a time; at most `most` guesses at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._text: list[int] = []
        self._latest: dict[tuple[int, ...], int] = {}  # n-gram -> where what followed it begins

    def begin(self, prompt: Sequence[int]) -> None:
        """A new text."""
        self._text, self._latest = [], {}
        self.see(prompt)

    def see(self, tokens: Sequence[int]) -> None:
        """What follows all that it has seen. An n-gram is known once something has followed it."""
        for token in tokens:
            end = len(self._text)
            for size in NGRAM_SIZES:
                if end >= size:
                    self._latest[tuple(self._text[end - size :])] = end
            self._text.append(token)

    def propose(self, count: int) -> Sequence[int]:
        """At most `count` tokens that may follow."""
        for size in NGRAM_SIZES:
            begin = self._latest.get(tuple(self._text[-size:]))
            if begin is not None:
                return self._text[begin : begin + min(count, self._most)]
        return ()

    def close(self) -> None:
        """Nothing is held that must be freed."""
