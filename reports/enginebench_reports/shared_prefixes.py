"""How much a prefix cache could find in a cell's own prompts, whatever workload made them.

Prompts in order of their beginnings share the most with their neighbours: what each has in common
with the one before it is all that a cache which forgets nothing could reuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["common_length", "reusable_share"]


def reusable_share(requests: pa.Table) -> float | None:
    """Share of all prompt tokens (of texts: characters); None for chats, whose template repeats.

    An upper bound, from the requests that were planned, sent or not.
    """
    tokens = _known(requests["prompt_tokens"].to_pylist())
    texts = _known(requests["prompt_text"].to_pylist())
    if len(tokens) + len(texts) < requests.num_rows or requests.num_rows == 0:
        return None
    total = sum(map(len, tokens)) + sum(map(len, texts))
    return (_reusable(tokens) + _reusable(texts)) / total if total else None


def _known(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value]


def _reusable(prompts: list[Any]) -> int:
    prompts.sort()
    return sum(common_length(one, other) for one, other in pairwise(prompts))


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Of what both begin with."""
    pairs = zip(one, other, strict=False)
    differs = (place for place, (a, b) in enumerate(pairs) if a != b)
    return next(differs, min(len(one), len(other)))
