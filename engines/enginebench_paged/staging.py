"""From a plan to the arrays of a step, on the host, with numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginebench_paged.inputs import FROM_DEVICE, Sizes, StepInputs
from enginebench_paged.step import Piece, StepPlan

__all__ = ["fill", "pad", "sizes_of"]

Ints = NDArray[Any]


def sizes_of(plan: StepPlan, block_size: int) -> Sizes:
    """The sizes that `plan` needs."""
    longest = max(piece.start + piece.length for piece in plan.pieces)
    return Sizes(
        tokens=plan.tokens,
        sequences=len(plan.pieces),
        samples=sum(piece.rows for piece in plan.pieces),
        decodes=plan.decodes,
        max_query_len=max(piece.length for piece in plan.pieces),
        width=-(-longest // block_size),
    )


def fill(x: StepInputs[Ints], plan: StepPlan, tables: NDArray[np.int32], block_size: int) -> None:
    """Write the plan into the leading rows of `x`, which may be longer than the plan needs."""
    pieces = plan.pieces
    slots = np.array([piece.slot for piece in pieces], np.int64)
    starts = np.array([piece.start for piece in pieces], np.int64)
    lengths = np.array([piece.length for piece in pieces], np.int64)
    ends = np.cumsum(lengths)
    count, tokens = len(pieces), int(ends[-1])
    x.sequence_slots[:count] = slots
    x.context_lens[:count] = starts + lengths
    x.query_starts[0] = 0
    x.query_starts[1 : count + 1] = ends
    rows = np.repeat(np.arange(count), lengths)  # (T,) the piece of each token
    positions = np.arange(tokens) + np.repeat(starts - (ends - lengths), lengths)
    x.positions[:tokens] = positions
    blocks = tables[slots[rows], positions // block_size].astype(np.int64)
    x.cache_slots[:tokens] = blocks * block_size + positions % block_size
    x.token_ids[:tokens] = _token_ids(pieces)
    drawn = np.array([piece.rows for piece in pieces], np.int64)
    samples = int(drawn.sum())
    of = np.repeat(np.arange(count), drawn)  # (S,) the piece of each row that is sampled
    from_end = np.repeat(np.cumsum(drawn), drawn) - np.arange(samples)  # 1 is its last row
    x.sample_rows[:samples] = ends[of] - from_end
    x.sample_slots[:samples] = slots[of]
    x.sample_positions[:samples] = (starts + lengths)[of] - from_end + 1


def _token_ids(pieces: Sequence[Piece]) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        known = piece.sequence.tokens
        if piece.drafts:
            ids += [known[piece.start], *piece.drafts]
        elif piece.length > 1:
            ids += known[piece.start : piece.start + piece.length]
        else:
            ids.append(known[piece.start] if piece.start < len(known) else FROM_DEVICE)
    return ids


def pad(x: StepInputs[Ints], used: Sizes, spare_slot: int) -> None:
    """Make the rows beyond those in use compute nothing that anybody reads."""
    tokens, sequences, samples = used.tokens, used.sequences, used.samples
    x.token_ids[tokens:] = 0
    x.positions[tokens:] = 0
    x.cache_slots[tokens:] = -1
    x.sequence_slots[sequences:] = spare_slot
    x.sample_rows[samples:] = 0
    x.sample_slots[samples:] = spare_slot
    x.sample_positions[samples:] = 0
    x.context_lens[sequences:] = 0
    x.query_starts[sequences + 1 :] = tokens
