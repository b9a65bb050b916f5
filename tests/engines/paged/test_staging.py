"""The arrays of a step: what they say of a plan, and how they are padded for a graph."""

from __future__ import annotations

import numpy as np
import torch

from enginebench_openai.protocol import GenerationRequest
from enginebench_paged.inputs import FROM_DEVICE, Sizes, device_views, host_views
from enginebench_paged.sequence import Sequence
from enginebench_paged.staging import fill, pad, sizes_of
from enginebench_paged.step import Piece, StepPlan
from enginebench_paged.tables import BlockTables

BLOCK = 4


def sequence(slot: int, tokens: int, blocks: list[int], in_flight: int = 0) -> Sequence:
    prompt = tuple(100 * slot + index for index in range(tokens))
    made = Sequence(GenerationRequest(str(slot), prompt, 9))
    made.slot, made.blocks, made.in_flight = slot, blocks, in_flight
    return made


def plan() -> StepPlan:
    """A decode whose token only the device knows, one that is known, and a chunk of a prompt."""
    flying, known = sequence(2, 5, [7, 3], in_flight=1), sequence(0, 4, [1])
    long = sequence(1, 11, [5, 6, 2])
    pieces = (
        Piece(flying, 2, 5, 1, True),
        Piece(known, 0, 3, 1, True),
        Piece(long, 1, 3, 6, False),
    )
    return StepPlan(pieces, 2, (long,))


def test_a_plan_is_spelled_out() -> None:
    tables = BlockTables(4, 6, torch.device("cpu"))
    tables.update(plan().pieces)
    sizes = sizes_of(plan(), BLOCK)
    assert sizes == Sizes(8, 3, 2, decodes=2, max_query_len=6, width=3)
    packed = np.full(sizes.words, -99, np.int64)
    fill(host_views(packed, sizes), plan(), tables.host, BLOCK)
    x = device_views(torch.from_numpy(packed), sizes)
    assert x.token_ids.tolist() == [FROM_DEVICE, 3, 103, 104, 105, 106, 107, 108]
    assert x.positions.tolist() == [5, 3, 3, 4, 5, 6, 7, 8]
    assert x.cache_slots.tolist() == [3 * 4 + 1, 1 * 4 + 3, 23, 24, 25, 26, 27, 8]
    assert x.sequence_slots.tolist() == [2, 0, 1]
    assert x.context_lens.tolist() == [6, 4, 9]
    assert x.query_starts.tolist() == [0, 1, 2, 8]
    assert x.sample_rows.tolist() == [0, 1]
    assert x.sample_slots.tolist() == [2, 0]
    assert x.sample_positions.tolist() == [6, 4]


def test_padding_stores_nothing_and_belongs_to_nobody() -> None:
    tables = BlockTables(4, 6, torch.device("cpu"))
    tables.update(plan().pieces)
    used, room = sizes_of(plan(), BLOCK), Sizes(12, 5, 5, decodes=0, max_query_len=12)
    packed = np.full(room.words, -99, np.int64)
    x = host_views(packed, room)
    fill(x, plan(), tables.host, BLOCK)
    pad(x, used, spare_slot=4)
    assert x.cache_slots[8:].tolist() == [-1] * 4
    assert x.sequence_slots[3:].tolist() == [4, 4]
    assert x.context_lens[3:].tolist() == [0, 0]
    assert x.query_starts.tolist() == [0, 1, 2, 8, 8, 8]
    assert x.sample_slots[2:].tolist() == [4, 4, 4]
    assert -99 not in packed[: -room.sequences - 1]  # every word was written


def test_block_tables_follow_the_owner_of_a_slot() -> None:
    tables = BlockTables(2, 4, torch.device("cpu"))
    first = sequence(1, 3, [9])
    tables.update([Piece(first, 1, 0, 3, True)])
    first.blocks.append(8)
    tables.update([Piece(first, 1, 3, 1, True)])
    assert tables.device[1, :2].tolist() == [9, 8]
    tables.reset(1)
    tables.update([Piece(sequence(1, 3, [5]), 1, 0, 3, True)])
    assert tables.device[1, 0].item() == 5
