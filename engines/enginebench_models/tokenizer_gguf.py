"""Tokenizer from the metadata of a GGUF file (`tokenizer.ggml.*`).

Two kinds of vocabulary: "gpt2" is byte-level BPE with merges, "llama" is SentencePiece BPE with a
score for each piece and bytes as a last resort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.gguf import GGUFFile
from enginebench_models.pretokenizers import BPE_RULES, byte_alphabet
from enginebench_models.sentencepiece import merges_from_scores, sentence_pieces
from enginebench_models.tokenizer import Tokenizer

__all__ = ["TokenKind", "TokenTable", "read_token_table", "tokenizer_from_gguf"]

# Control tokens of these names end a generation in every model that has them.
_END_NAMES = frozenset(
    {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>"}
)


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The vocabulary as the file lists it: the text and the kind of each id."""

    texts: list[str]
    kinds: list[int]

    def ids(self, *kinds: TokenKind) -> list[int]:
        wanted = {int(kind) for kind in kinds}
        return [id for id, kind in enumerate(self.kinds) if kind in wanted]

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.ids(TokenKind.CONTROL, TokenKind.UNKNOWN))

    def added(self, *kinds: TokenKind, special: bool) -> list[AddedToken]:
        """Tokens found in a text before it is split into words."""
        return [
            AddedToken(self.texts[id], special=special, normalized=False)
            for id in self.ids(*kinds)
            if self.texts[id]
        ]


def read_token_table(file: GGUFFile) -> TokenTable:
    """Check and return the vocabulary; a file without token types has ordinary tokens only."""
    texts = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(texts, list) or not texts or not isinstance(texts[0], str):
        raise ModelError(f"{file.path}: tokenizer.ggml.tokens is missing: it has no tokenizer")
    kinds = _numbers(file, "tokenizer.ggml.token_type", len(texts))
    return TokenTable(texts, [1] * len(texts) if kinds is None else kinds.astype(int).tolist())


def tokenizer_from_gguf(file: GGUFFile) -> Tokenizer:
    """Build the tokenizer; ModelError names a key that is missing or means something unknown."""
    table = read_token_table(file)
    model = file.metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        return _byte_level(file, table)
    if model == "llama":
        return _sentence_piece(file, table)
    raise ModelError(
        f"{file.path}: tokenizer.ggml.model {model!r} is not supported (known: gpt2, llama)"
    )


# ---------------------------------------------------------------- byte-level BPE


def _byte_level(file: GGUFFile, table: TokenTable) -> Tokenizer:
    name = str(file.metadata.get("tokenizer.ggml.pre", "default"))
    if name not in BPE_RULES:
        raise ModelError(f"{file.path}: {UnknownNameError('pre-tokenizer', name, BPE_RULES)}")
    rules = BPE_RULES[name]
    ids = _ids(table)
    model = models.BPE(ids, _merges(file, ids), ignore_merges=rules.whole_words_first)
    pre_tokenizer, normalizer = rules.pre_tokenizer(), rules.normalizer()
    ordinary, parsing = (
        _encoder(model, table, parses, pre_tokenizer, normalizer) for parses in (False, True)
    )
    return _assemble(
        file, table, ordinary, parsing, _byte_level_pieces(table), adds_bos=rules.adds_bos
    )


def _ids(table: TokenTable) -> dict[str, int]:
    """Token text -> id; the first id wins where padding repeats a text."""
    ids: dict[str, int] = {}
    for id, text in enumerate(table.texts):
        ids.setdefault(text, id)
    return ids


def _merges(file: GGUFFile, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges in order of rank; both parts and the whole must be tokens."""
    lines = file.metadata.get("tokenizer.ggml.merges")
    if not isinstance(lines, list):
        raise ModelError(f"{file.path}: tokenizer.ggml.merges is missing")
    merges = []
    for line in lines:
        left, _, right = str(line).partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise ModelError(
                f"{file.path}: tokenizer.ggml.merges holds {line!r}, which does not join two tokens"
            )
        merges.append((left, right))
    return merges


def _byte_level_pieces(table: TokenTable) -> list[bytes]:
    """The bytes of each token; special and added tokens stand there as plain text."""
    alphabet = str.maketrans({letter: chr(byte) for letter, byte in byte_alphabet().items()})
    literal = {TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN}
    pieces = []
    for text, kind in zip(table.texts, table.kinds, strict=True):
        if kind in literal:
            pieces.append(text.encode())
            continue
        try:
            pieces.append(text.translate(alphabet).encode("latin-1"))
        except UnicodeEncodeError:  # a letter outside the alphabet: stands for itself
            pieces.append(text.encode())
    return pieces


# ---------------------------------------------------------------- SentencePiece BPE


def _sentence_piece(file: GGUFFile, table: TokenTable) -> Tokenizer:
    scores = _numbers(file, "tokenizer.ggml.scores", len(table.texts))
    if scores is None:
        raise ModelError(f"{file.path}: tokenizer.ggml.scores is missing")
    mergeable = table.ids(TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNUSED)
    merges = merges_from_scores({table.texts[id]: float(scores[id]) for id in mergeable})
    unknown = table.ids(TokenKind.UNKNOWN)
    model = models.BPE(
        _ids(table),
        merges,
        unk_token=table.texts[unknown[0]] if unknown else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    adds_space = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    if adds_space:
        steps.insert(0, normalizers.Prepend("▁"))
    normalizer = normalizers.Sequence(steps)
    ordinary, parsing = (
        _encoder(model, table, parses, None, normalizer) for parses in (False, True)
    )
    pieces = sentence_pieces(table.texts, set(table.ids(TokenKind.BYTE)))
    return _assemble(file, table, ordinary, parsing, pieces, adds_bos=True, strips_space=adds_space)


# ---------------------------------------------------------------- both


def _encoder(
    model: models.Model,
    table: TokenTable,
    parses_special: bool,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
    normalizer: normalizers.Normalizer | None,
) -> tokenizers.Tokenizer:
    encoder = tokenizers.Tokenizer(model)
    if pre_tokenizer is not None:
        encoder.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        encoder.normalizer = normalizer
    encoder.add_tokens(table.added(TokenKind.USER_DEFINED, special=False))
    if parses_special:
        encoder.add_special_tokens(table.added(TokenKind.CONTROL, TokenKind.UNKNOWN, special=True))
    return encoder


def _assemble(
    file: GGUFFile,
    table: TokenTable,
    ordinary: tokenizers.Tokenizer,
    parsing: tokenizers.Tokenizer,
    pieces: Sequence[bytes],
    *,
    adds_bos: bool,
    strips_space: bool = False,
) -> Tokenizer:
    named_ends = {id for id in table.ids(TokenKind.CONTROL) if table.texts[id] in _END_NAMES}
    stated_ends = {_token_id(file, table, f"{kind}_token_id") for kind in ("eos", "eot", "eom")}
    return Tokenizer(
        ordinary=ordinary,
        parsing=parsing,
        pieces=pieces,
        special_ids=table.special_ids,
        eos_ids=frozenset(named_ends | stated_ends - {None}),  # type: ignore[arg-type]
        bos_id=_token_id(file, table, "bos_token_id"),
        adds_bos=bool(file.metadata.get("tokenizer.ggml.add_bos_token", adds_bos)),
        strips_space=strips_space,
    )


def _token_id(file: GGUFFile, table: TokenTable, key: str) -> int | None:
    id = file.metadata.get(f"tokenizer.ggml.{key}")
    if id is None:
        return None
    if not isinstance(id, int) or not 0 <= id < len(table.texts):
        raise ModelError(f"{file.path}: tokenizer.ggml.{key} is {id!r}, no id of the vocabulary")
    return id


def _numbers(file: GGUFFile, key: str, length: int) -> np.ndarray | None:
    values = file.metadata.get(key)
    if values is None:
        return None
    if not isinstance(values, np.ndarray) or len(values) != length:
        raise ModelError(f"{file.path}: {key} does not hold a number for each of {length} tokens")
    return values
