"""Prompts of a known length, seeded: no two are alike, so that no cache can help by accident.

Token-id prompts have an exact length for every engine. Text prompts are words of a fixed list, for
servers whose vocabulary nobody here knows; their length in tokens is only near the number of words,
and the server's own usage says what it really was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["WORDS", "text_prompt", "token_prompts"]

WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea kid body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education"
).split()


def token_prompts(
    rng: np.random.Generator, count: int, length: int, low: int, high: int
) -> list[tuple[int, ...]]:
    """`count` prompts of `length` token ids, uniform in [low, high)."""
    ids = rng.integers(low, high, size=(count, length), dtype="int64")
    return [tuple(row) for row in ids.tolist()]


def text_prompt(rng: np.random.Generator, words: int) -> str:
    """One text of that many common English words (about one token each)."""
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), size=words).tolist())
