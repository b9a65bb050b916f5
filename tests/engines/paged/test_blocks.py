"""The block pool: states, sharing, eviction order; then any sequence of calls at all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from enginebench_paged.blocks import BlockPool, chain_hash


def chain(*blocks: tuple[int, ...]) -> list[bytes]:
    hashes: list[bytes] = []
    for block in blocks:
        hashes.append(chain_hash(hashes[-1] if hashes else b"", block))
    return hashes


def test_a_hash_says_the_whole_prefix() -> None:
    one = chain((1, 2), (3, 4))
    other = chain((9, 2), (3, 4))
    assert one[1] != other[1]
    assert one == chain((1, 2), (3, 4))
    assert chain_hash(b"", (1, 2)) != chain_hash(b"", (2, 1))


def test_released_blocks_are_found_again_until_they_are_needed() -> None:
    pool = BlockPool(3)
    keys = chain((1,), (2,))
    blocks = pool.allocate(2)
    for block, key in zip(blocks, keys, strict=True):
        pool.register(block, key)
    pool.release(blocks)
    assert pool.free_count == 3
    assert pool.acquire_prefix(keys) == blocks
    assert pool.free_count == 1
    pool.release(blocks)
    pool.allocate(2)  # the spare one, then the tail of the chain: never its head first
    assert pool.acquire_prefix(keys) == blocks[:1]


def test_the_least_recently_used_chain_is_evicted_first() -> None:
    pool = BlockPool(2)
    old, new = chain((1,))[0], chain((2,))[0]
    for key in (old, new):
        (block,) = pool.allocate(1)
        pool.register(block, key)
        pool.release([block])
    pool.release(pool.acquire_prefix([old]))  # a use makes it the younger one
    pool.allocate(1)
    assert pool.acquire_prefix([new]) == []
    assert len(pool.acquire_prefix([old])) == 1


def test_equal_blocks_are_kept_once() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    key = chain((7, 7))[0]
    pool.register(first, key)
    pool.register(second, key)
    pool.release([second])
    assert pool.acquire_prefix([key]) == [first]
    assert pool.count(first) == 2


def test_without_the_cache_nothing_is_found() -> None:
    pool = BlockPool(1, prefix_cache=False)
    blocks = pool.allocate(1)
    pool.register(blocks[0], b"key")
    pool.release(blocks)
    assert pool.acquire_prefix([b"key"]) == []


def test_an_empty_pool_says_so() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0)
    pool = BlockPool(1)
    pool.allocate(1)
    with pytest.raises(IndexError, match="empty"):
        pool.allocate(1)


class PoolMachine(RuleBasedStateMachine):
    """Holders take, register and release block lists in any order; the counts must stay exact."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6)
        self.lists: list[list[int]] = []
        self.content: dict[int, bytes] = {}  # what blocks were registered as

    @rule(target=held, number=st.integers(0, 3))
    def allocate(self, number: int) -> list[int]:
        number = min(number, self.pool.free_count)
        blocks = self.pool.allocate(number)
        for block in blocks:
            self.content.pop(block, None)
        self.lists.append(blocks)
        return blocks

    @rule(blocks=held, numbers=st.lists(st.integers(0, 2), max_size=3))
    def register(self, blocks: list[int], numbers: list[int]) -> None:
        for block, key in zip(blocks, chain(*((n,) for n in numbers)), strict=False):
            self.pool.register(block, key)
            self.content.setdefault(block, key)

    @rule(target=held, numbers=st.lists(st.integers(0, 2), max_size=3))
    def acquire(self, numbers: list[int]) -> list[int]:
        keys = chain(*((n,) for n in numbers))
        blocks = self.pool.acquire_prefix(keys)
        assert [self.content[block] for block in blocks] == keys[: len(blocks)]
        self.lists.append(blocks)
        return blocks

    @rule(blocks=consumes(held))
    def release(self, blocks: list[int]) -> None:
        self.lists = [other for other in self.lists if other is not blocks]
        self.pool.release(blocks)

    @invariant()
    def counts_are_exact(self) -> None:
        holders = Counter(block for blocks in self.lists for block in blocks)
        assert [self.pool.count(b) for b in range(6)] == [holders[b] for b in range(6)]
        assert self.pool.used_count == len(holders)
        assert self.pool.used_count + self.pool.free_count == 6


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
