"""WordPiece vocabularies in GGUF ("bert"): how texts become words, and what the pieces stand for.

GGUF marks the pieces that begin a word with "\u2581"; WordPiece itself marks the others, with "##".
"""

from __future__ import annotations

from tokenizers import models, normalizers, pre_tokenizers

from enginebench_models.token_table import TokenKind, TokenTable

__all__ = ["word_piece_bytes", "word_piece_model", "word_piece_normalizer", "word_splitter"]

_BEGIN, _INSIDE = "\u2581", "##"
_LITERAL = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)
_LONGEST_WORD = 100


def word_piece_model(table: TokenTable, unknown: str) -> models.WordPiece:
    """The longest piece first; a word that has no pieces is `unknown` as a whole."""
    vocabulary: dict[str, int] = {}
    for id, (text, kind) in enumerate(zip(table.texts, table.kinds, strict=True)):
        if kind not in _LITERAL:
            text = text[1:] if text.startswith(_BEGIN) else _INSIDE + text
        vocabulary.setdefault(text, id)
    return models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=_LONGEST_WORD)


def word_piece_normalizer() -> normalizers.Normalizer:
    """Control characters go, accents go, letters become small, and every Han character a word."""
    return normalizers.BertNormalizer()


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """At white space, and around every punctuation mark."""
    return pre_tokenizers.BertPreTokenizer()


def word_piece_bytes(table: TokenTable) -> list[bytes]:
    """The text of each token; those that begin a word have a space in front."""
    return [
        (text if kind in _LITERAL else text.replace(_BEGIN, " ")).encode()
        for text, kind in zip(table.texts, table.kinds, strict=True)
    ]
