"""A vocabulary as files list it: the text and the kind of each token id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from tokenizers import AddedToken

__all__ = ["TokenKind", "TokenTable"]


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type` of GGUF files."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class TokenTable:
    """`texts` and `kinds` (numbers of TokenKind) by id."""

    texts: list[str]
    kinds: list[int]

    def ids(self, *kinds: TokenKind) -> list[int]:
        """All ids of these kinds, in order."""
        wanted = {int(kind) for kind in kinds}
        return [id for id, kind in enumerate(self.kinds) if kind in wanted]

    def id_of_text(self) -> dict[str, int]:
        """Text -> id; the first id wins where padding repeats a text."""
        ids: dict[str, int] = {}
        for id, text in enumerate(self.texts):
            ids.setdefault(text, id)
        return ids

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that steer the model and are no text."""
        return frozenset(self.ids(TokenKind.CONTROL, TokenKind.UNKNOWN))

    def added(
        self,
        *kinds: TokenKind,
        special: bool,
        swallows_space: Callable[[str], bool] = lambda text: False,
    ) -> list[AddedToken]:
        """Tokens that are looked for in a text before it is split into words."""
        texts = [self.texts[id] for id in self.ids(*kinds) if self.texts[id]]
        return [
            AddedToken(text, special=special, normalized=False, rstrip=swallows_space(text))
            for text in texts
        ]
