"""What a step feeds the model, packed into one array so that one copy brings it to the device.

Written on the host into (pinned) memory, read on the device through views of the same layout. A
graph has a buffer of fixed size with its rows padded; other steps get one of the size they need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["FROM_DEVICE", "Sizes", "StepInputs", "device_views", "host_views"]

FROM_DEVICE = -1  # in token_ids: the host does not know it yet, take what the slot sampled last

ArrayT = TypeVar("ArrayT", NDArray[Any], torch.Tensor)


@dataclass(frozen=True, slots=True)
class Sizes:
    """T tokens of B sequences, S of which sample; the first `decodes` sequences have one token."""

    tokens: int
    sequences: int
    samples: int
    decodes: int
    max_query_len: int = 1
    width: int = 0  # block table columns that are looked at

    @property
    def all_sampled(self) -> bool:
        """Whether the tokens are one a sequence, and each of them samples."""
        return self.decodes == self.tokens == self.samples

    @property
    def words(self) -> int:
        """int64 words of the packed array; the two int32 fields share the last ones."""
        return 3 * self.tokens + self.sequences + 3 * self.samples + self.sequences + 1


@dataclass(frozen=True, slots=True)
class StepInputs(Generic[ArrayT]):
    """Views into the packed array: numpy on the host, torch on the device.

    token_ids (T,), positions (T,), cache_slots (T,): block * block_size + offset, negative stores
    nothing. sequence_slots (B,): state slot of each sequence. sample_rows (S,): which of the T
    rows are sampled, sample_slots (S,) for whom, sample_positions (S,): where the new token will
    stand. context_lens (B,) and query_starts (B + 1,) are int32.
    """

    sizes: Sizes
    token_ids: ArrayT
    positions: ArrayT
    cache_slots: ArrayT
    sequence_slots: ArrayT
    sample_rows: ArrayT
    sample_slots: ArrayT
    sample_positions: ArrayT
    context_lens: ArrayT
    query_starts: ArrayT


def host_views(packed: NDArray[np.int64], sizes: Sizes) -> StepInputs[NDArray[Any]]:
    """Views for writing."""
    parts = [packed[start:stop] for start, stop in _cuts(sizes)]
    return _named(sizes, parts[:-1], parts[-1].view(np.int32))


def device_views(packed: torch.Tensor, sizes: Sizes) -> StepInputs[torch.Tensor]:
    """Views for reading, on whatever device the array is."""
    parts = [packed[start:stop] for start, stop in _cuts(sizes)]
    return _named(sizes, parts[:-1], parts[-1].view(torch.int32))


def _named(sizes: Sizes, wide: list[ArrayT], narrow: ArrayT) -> StepInputs[ArrayT]:
    token_ids, positions, cache_slots, sequence_slots, rows, slots, places = wide
    count = sizes.sequences
    return StepInputs(
        sizes=sizes,
        token_ids=token_ids,
        positions=positions,
        cache_slots=cache_slots,
        sequence_slots=sequence_slots,
        sample_rows=rows,
        sample_slots=slots,
        sample_positions=places,
        context_lens=narrow[:count],
        query_starts=narrow[count : 2 * count + 1],
    )


def _cuts(sizes: Sizes) -> list[tuple[int, int]]:
    lengths = [sizes.tokens] * 3 + [sizes.sequences] + [sizes.samples] * 3 + [sizes.sequences + 1]
    cuts, start = [], 0
    for length in lengths:
        cuts.append((start, start + length))
        start += length
    return cuts
