"""Text from tokens as they come: bytes are held back until they make whole characters."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

__all__ = ["TokenStream"]


class TokenStream:
    """Turns tokens of one sequence into text. `push` never returns half a character.

    `pieces` holds the bytes of each token id; ids in `hidden` (special tokens) yield nothing.
    `strip_space` drops one space at the very start (vocabularies that mark words by one).
    """

    def __init__(
        self, pieces: Sequence[bytes], hidden: frozenset[int], *, strip_space: bool = False
    ) -> None:
        self._pieces = pieces
        self._hidden = hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_space = strip_space

    def push(self, ids: Iterable[int]) -> str:
        """The text that these tokens complete; bytes that are no UTF-8 become U+FFFD."""
        return self._decoder.decode(self._bytes(ids))

    def finish(self) -> str:
        """What is left at the end: U+FFFD if the last character was never completed."""
        return self._decoder.decode(b"", final=True)

    def _bytes(self, ids: Iterable[int]) -> bytes:
        pieces, hidden, known = self._pieces, self._hidden, len(self._pieces)
        data = b"".join(pieces[i] for i in ids if i not in hidden and 0 <= i < known)
        if self._strip_space and data:
            self._strip_space = False
            data = data.removeprefix(b" ")
        return data
