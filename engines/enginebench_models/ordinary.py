"""Which token ids are safe in random prompts."""

from __future__ import annotations

from collections.abc import Set
from itertools import pairwise

__all__ = ["ordinary_range"]


def ordinary_range(vocab_size: int, n_tokens: int, special_ids: Set[int]) -> tuple[int, int]:
    """The longest run [first, end) of ids that have a text and no special meaning.

    Special tokens stand at the front of some vocabularies and at the end of others; ids past
    `n_tokens` only pad the embedding.
    """
    limit = min(vocab_size, n_tokens)
    edges = [-1, *sorted(id for id in special_ids if 0 <= id < limit), limit]
    runs = [(left + 1, right) for left, right in pairwise(edges)]
    return max(runs, key=lambda run: run[1] - run[0])
