"""Prompts of a known length, seeded, written as token ids, as text or as a chat.

Token-id prompts have an exact length for every engine. Text prompts are words of a fixed list, for
servers whose vocabulary nobody here knows; their length in tokens is only near the number of words,
and the server's own usage says what it really was. Prompts are joined from pieces, so that some can
share their beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from enginebench.types import Message, ModelInfo, Option
from enginebench_workloads.cell_options import CellOptions

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PROMPT_OPTIONS", "WORDS", "Piece", "Prompt", "PromptWriter", "words"]

Prompt = str | tuple[int | Message, ...]
Piece = tuple[int, ...] | tuple[str, ...]

PROMPT_OPTIONS: Sequence[Option] = (
    Option(
        "prompt",
        str,
        "tokens",
        "token ids of exact length, or English words of about that many tokens",
        choices=("tokens", "text"),
    ),
    Option("route", str, "completions", "which API is used", choices=("completions", "chat")),
)

WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea kid body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education"
).split()


def words(rng: np.random.Generator, length: int) -> tuple[str, ...]:
    """`length` random ones, most of which are one token to most tokenizers."""
    return tuple(WORDS[i] for i in rng.integers(0, len(WORDS), size=length).tolist())


class PromptWriter:
    """Writes in the words of one model: its ordinary token ids, or English where ids do not do."""

    def __init__(self, model: ModelInfo, chosen: CellOptions) -> None:
        self._chat = chosen.text("route") == "chat"
        as_text = self._chat or chosen.text("prompt") == "text" or model.vocab_size is None
        high = model.ordinary_token_end or model.vocab_size
        self._ids = None if as_text else (model.first_ordinary_token, high)

    def piece(self, rng: np.random.Generator, length: int) -> Piece:
        """`length` random token ids, or words."""
        if self._ids is None:
            return words(rng, length)
        return tuple(rng.integers(*self._ids, size=length).tolist())

    def prompt(self, *pieces: Piece) -> Prompt:
        """The pieces behind one another."""
        if self._ids is not None:
            return tuple(token for piece in pieces for token in piece)  # type: ignore[misc]
        text = " ".join(str(word) for piece in pieces for word in piece)
        return (Message("user", text),) if self._chat else text
