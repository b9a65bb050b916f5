"""SentencePiece BPE vocabularies: merges from scores, and the bytes that pieces stand for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

__all__ = ["merges_from_scores", "sentence_pieces"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def merges_from_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a third one, best score of the result first.

    SentencePiece always joins the neighbours whose union scores best, which is what BPE does with
    merges in this order.
    """
    ranked = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, left, right))
    ranked.sort(key=lambda merge: merge[0])
    return [(left, right) for _, left, right in ranked]


def sentence_pieces(texts: Sequence[str], byte_ids: Collection[int]) -> list[bytes]:
    """The bytes of each piece: `<0x0A>` is one byte where `byte_ids` says so, "▁" is a space."""
    pieces = []
    for id, text in enumerate(texts):
        byte = _BYTE.fullmatch(text) if id in byte_ids else None
        pieces.append(bytes.fromhex(byte[1]) if byte else text.replace("▁", " ").encode())
    return pieces
