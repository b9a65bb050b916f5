"""Text to token ids and back, whatever file the vocabulary came from.

Encoding is done by the Hugging Face `tokenizers` library; decoding is a table from id to bytes, so
that a stream and a whole text decode alike. `tokenizer_gguf` and `tokenizer_hf` build it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import tokenizers

from enginebench_models.token_stream import TokenStream

__all__ = ["Tokenizer"]

_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A vocabulary and its rules. Safe to use from several threads at once.

    `ordinary` encodes special tokens in a text like any other text, `parsing` as what they are.
    `pieces` are the bytes of each id (a few ids past them may exist as padding of the embedding;
    they decode to nothing). `adds_bos`: the model expects `bos_id` first.
    """

    ordinary: tokenizers.Tokenizer = field(repr=False)
    parsing: tokenizers.Tokenizer = field(repr=False)
    pieces: Sequence[bytes] = field(repr=False)
    special_ids: frozenset[int]
    eos_ids: frozenset[int]
    bos_id: int | None = None
    adds_bos: bool = False
    strips_space: bool = False

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.pieces)

    def encode(
        self, text: str, *, add_bos: bool | None = None, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`. `add_bos` None: as the model says.

        With `parse_special` the names of special tokens (`<|im_end|>`) become these tokens: right
        for the output of a chat template, wrong for text that a user typed. Half of a surrogate
        pair is no character and counts as U+FFFD.
        """
        tokenizer = self.parsing if parse_special else self.ordinary
        whole = _HALVES.sub("\ufffd", text)
        ids: list[int] = tokenizer.encode(whole, add_special_tokens=False).ids
        adds_bos = self.adds_bos if add_bos is None else add_bos
        if adds_bos and self.bos_id is not None:
            return [self.bos_id, *ids]
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        stream = self.stream(skip_special=skip_special)
        return stream.push(ids) + stream.finish()

    def stream(self, skip_special: bool = True) -> TokenStream:
        """A decoder for one sequence whose tokens arrive bit by bit."""
        hidden = self.special_ids if skip_special else frozenset()
        return TokenStream(self.pieces, hidden, strip_space=self.strips_space)

    def piece(self, token_id: int) -> str:
        """The text of one token on its own, special tokens included; for logs and errors."""
        return self.pieces[token_id].decode("utf-8", "replace")
