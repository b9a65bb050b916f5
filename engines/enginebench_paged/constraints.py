"""What requests say about single tokens, put into logits before anything is drawn from them.

Biases are added; end tokens before `min_tokens`, and what a grammar does not allow, get -inf. Plain
torch, on whatever device, and only in steps where a sequence asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from enginebench_openai.grammar import mask_words
from enginebench_paged.step import Piece
from enginebench_paged.transfer import upload

__all__ = ["constrained"]


def constrained(logits: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """A copy of `logits` (S, V) in float32, with what each of the S sampling pieces asks for."""
    values = logits.to(torch.float32, copy=True)
    added = [(row, *change) for row, piece in enumerate(pieces) for change in _changes(piece)]
    if added:
        rows, tokens, amounts = zip(*added, strict=True)
        places = upload(np.array([rows, tokens], np.int64), logits.device)
        changes = upload(np.array(amounts, np.float32), logits.device)
        values.index_put_((places[0], places[1]), changes, accumulate=True)
    _forbid_by_grammar(values, pieces)
    return values


def _changes(piece: Piece) -> Iterable[tuple[int, float]]:
    """(token, what is added to its logit)."""
    request = piece.sequence.request
    yield from request.sampling.logit_bias
    if piece.start + piece.length - len(request.prompt) < request.min_tokens:
        yield from ((token, -np.inf) for token in request.stop_token_ids)


def _forbid_by_grammar(values: Tensor, pieces: Sequence[Piece]) -> None:
    rows = [row for row, piece in enumerate(pieces) if piece.sequence.matcher is not None]
    if not rows:
        return
    vocab_size = values.shape[1]
    words = np.zeros((len(rows), mask_words(vocab_size)), np.int32)
    for row, of_row in zip(rows, words, strict=True):
        matcher = pieces[row].sequence.matcher
        assert matcher is not None
        matcher.fill(of_row)
    packed = upload(words, values.device)
    bits = (packed[:, :, None] >> torch.arange(32, dtype=torch.int32, device=values.device)) & 1
    forbidden = bits.flatten(1)[:, :vocab_size] == 0
    where = upload(np.array(rows, np.int64), values.device)
    values[where] = values[where].masked_fill(forbidden, -torch.inf)
