"""Tokenizer from the metadata of a GGUF file (`tokenizer.ggml.*`).

Three kinds of vocabulary: "gpt2" is byte-level BPE with merges, "llama" is SentencePiece BPE with a
score for each piece and bytes as a last resort, "bert" is WordPiece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, normalizers, pre_tokenizers

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.gguf import GGUFValue
from enginebench_models.pretokenizers import BPE_RULES, byte_alphabet
from enginebench_models.sentencepiece import merges_from_scores, sentence_pieces
from enginebench_models.token_table import TokenKind, TokenTable
from enginebench_models.tokenizer import Tokenizer
from enginebench_models.word_piece import (
    word_piece_bytes,
    word_piece_model,
    word_piece_normalizer,
    word_splitter,
)

__all__ = ["read_token_table", "tokenizer_from_gguf"]

# Control tokens of these names end a generation in every model that has them.
_END_NAMES = frozenset(
    {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>"}
)


def _never(text: str) -> bool:
    return False


def _phi3_swallows_space(text: str) -> bool:
    return text not in ("<unk>", "<s>", "<|endoftext|>")


# Files do not say which special tokens take the white space behind them with them.
_SWALLOWS_SPACE = {"phi3": _phi3_swallows_space}


def tokenizer_from_gguf(metadata: Mapping[str, GGUFValue], where: str) -> Tokenizer:
    """Build the tokenizer; a ModelError names `where` and the key that is missing or unknown."""
    vocabulary = _Vocabulary(metadata, where, read_token_table(metadata, where))
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        return _byte_level(vocabulary)
    if model == "llama":
        return _sentence_piece(vocabulary)
    if model == "bert":
        return _word_piece(vocabulary)
    raise ModelError(
        f"{where}: tokenizer.ggml.model {model!r} is not supported (known: gpt2, llama, bert)"
    )


def read_token_table(metadata: Mapping[str, GGUFValue], where: str) -> TokenTable:
    """Check and return the vocabulary; without token types all tokens are ordinary."""
    texts = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(texts, list) or not texts or not isinstance(texts[0], str):
        raise ModelError(f"{where}: tokenizer.ggml.tokens is missing: it has no tokenizer")
    vocabulary = _Vocabulary(metadata, where, TokenTable(texts, [1] * len(texts)))
    kinds = vocabulary.numbers("token_type")
    return TokenTable(texts, kinds.astype(int).tolist()) if kinds is not None else vocabulary.table


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The token table and typed access to the keys beside it."""

    metadata: Mapping[str, GGUFValue]
    where: str
    table: TokenTable

    def get(self, key: str, default: GGUFValue | None = None) -> GGUFValue | None:
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    def error(self, key: str, problem: str) -> ModelError:
        return ModelError(f"{self.where}: tokenizer.ggml.{key} {problem}")

    def numbers(self, key: str) -> NDArray[Any] | None:
        """One number for each token."""
        values, length = self.get(key), len(self.table.texts)
        if values is None:
            return None
        if not isinstance(values, np.ndarray) or len(values) != length:
            raise self.error(key, f"does not hold a number for each of {length} tokens")
        return values

    def token_id(self, key: str) -> int | None:
        id = self.get(key)
        if id is None:
            return None
        if not isinstance(id, int) or not 0 <= id < len(self.table.texts):
            raise self.error(key, f"is {id!r}, no id of the vocabulary")
        return id


# ---------------------------------------------------------------- byte-level BPE


def _byte_level(vocabulary: _Vocabulary) -> Tokenizer:
    name = str(vocabulary.get("pre", "default"))
    if name not in BPE_RULES:
        unknown = UnknownNameError("pre-tokenizer", name, BPE_RULES)
        raise ModelError(f"{vocabulary.where}: {unknown}")
    rules = BPE_RULES[name]
    ids = vocabulary.table.id_of_text()
    model = models.BPE(ids, _merges(vocabulary, ids), ignore_merges=rules.whole_words_first)
    return _assemble(
        vocabulary,
        _encoders(vocabulary.table, model, rules.pre_tokenizer(), rules.normalizer()),
        _byte_level_pieces(vocabulary.table),
        adds_bos=rules.adds_bos,
    )


def _merges(vocabulary: _Vocabulary, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges in order of rank; both parts and the whole must be tokens."""
    lines = vocabulary.get("merges")
    if not isinstance(lines, list):
        raise vocabulary.error("merges", "is missing")
    merges = []
    for line in lines:
        left, _, right = str(line).partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise vocabulary.error("merges", f"holds {line!r}, which does not join two tokens")
        merges.append((left, right))
    return merges


def _byte_level_pieces(table: TokenTable) -> list[bytes]:
    """The bytes of each token; special and added tokens stand there as plain text."""
    alphabet = str.maketrans({letter: chr(byte) for letter, byte in byte_alphabet().items()})
    literal = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)
    pieces = []
    for text, kind in zip(table.texts, table.kinds, strict=True):
        try:
            plain = text if kind in literal else text.translate(alphabet)
            pieces.append(plain.encode("utf-8" if kind in literal else "latin-1"))
        except UnicodeEncodeError:  # a letter outside the alphabet: the token is plain text
            pieces.append(text.encode())
    return pieces


# ---------------------------------------------------------------- SentencePiece BPE


def _sentence_piece(vocabulary: _Vocabulary) -> Tokenizer:
    table, scores = vocabulary.table, vocabulary.numbers("scores")
    if scores is None:
        raise vocabulary.error("scores", "is missing")
    mergeable = table.ids(TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNUSED)
    merges = merges_from_scores({table.texts[id]: float(scores[id]) for id in mergeable})
    unknown = table.ids(TokenKind.UNKNOWN)
    model = models.BPE(
        table.id_of_text(),
        merges,
        unk_token=table.texts[unknown[0]] if unknown else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    adds_space = bool(vocabulary.get("add_space_prefix", True))
    steps: list[normalizers.Normalizer] = [normalizers.Prepend("▁")] if adds_space else []
    normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    return _assemble(
        vocabulary,
        _encoders(
            table,
            model,
            None,
            normalizer,
            swallows_space=_SWALLOWS_SPACE.get(vocabulary.architecture, _never),
        ),
        sentence_pieces(table.texts, set(table.ids(TokenKind.BYTE))),
        adds_bos=True,
        strips_space=adds_space,
    )


# ---------------------------------------------------------------- WordPiece


def _word_piece(vocabulary: _Vocabulary) -> Tokenizer:
    table, unknown = vocabulary.table, vocabulary.token_id("unknown_token_id")
    if unknown is None:
        raise vocabulary.error("unknown_token_id", "is missing")
    model = word_piece_model(table, table.texts[unknown])
    return _assemble(
        vocabulary,
        _encoders(table, model, word_splitter(), word_piece_normalizer()),
        word_piece_bytes(table),
        adds_bos=True,
        strips_space=True,
    )


# ---------------------------------------------------------------- all


def _encoders(
    table: TokenTable,
    model: models.Model,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
    normalizer: normalizers.Normalizer | None,
    *,
    swallows_space: Callable[[str], bool] = _never,
) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer]:
    """One that takes special tokens in a text for plain text, and one that parses them.

    `swallows_space` says of a special token whether white space behind it belongs to it.
    """
    ordinary, parsing = tokenizers.Tokenizer(model), tokenizers.Tokenizer(model)
    for encoder in (ordinary, parsing):
        if pre_tokenizer is not None:
            encoder.pre_tokenizer = pre_tokenizer
        if normalizer is not None:
            encoder.normalizer = normalizer
        encoder.add_tokens(table.added(TokenKind.USER_DEFINED, special=False))
    parsing.add_special_tokens(
        table.added(
            TokenKind.CONTROL, TokenKind.UNKNOWN, special=True, swallows_space=swallows_space
        )
    )
    return ordinary, parsing


def _assemble(
    vocabulary: _Vocabulary,
    encoders: tuple[tokenizers.Tokenizer, tokenizers.Tokenizer],
    pieces: Sequence[bytes],
    *,
    adds_bos: bool,
    strips_space: bool = False,
) -> Tokenizer:
    table = vocabulary.table
    ends = {id for id in table.ids(TokenKind.CONTROL) if table.texts[id] in _END_NAMES}
    for key in ("eos_token_id", "eot_token_id", "eom_token_id"):
        id = vocabulary.token_id(key)
        if id is not None:
            ends.add(id)
    return Tokenizer(
        *encoders,
        pieces=pieces,
        special_ids=table.special_ids,
        eos_ids=frozenset(ends),
        bos_id=vocabulary.token_id("bos_token_id"),
        adds_bos=bool(vocabulary.get("add_bos_token", adds_bos)),
        strips_space=strips_space,
    )
