"""The block pool: who holds which KV block, and which full blocks can be shared by prefix.

A block holds the keys and values of `block_size` consecutive tokens. Full blocks are known by a
chain hash: the digest of their tokens and of the block before them, so that equal hashes mean equal
prefixes (128-bit BLAKE2b: not even a hostile prompt can make two collide). A block whose last
holder lets go keeps its content and stays findable until the pool needs the room; the least
recently used goes first.

Knows neither sequences nor tensors: a block is a number.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

__all__ = ["BlockPool", "chain_hash"]


def chain_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of a full block: `parent` is the hash of the one before it (b"" for the first)."""
    return blake2b(array("q", tokens).tobytes(), key=parent, digest_size=16).digest()


class BlockPool:
    """Reference counts over `num_blocks` blocks, with reuse of cached ones.

    Every block is in exactly one state: held (count > 0), free, or free but cached (count 0,
    findable by its hash). Raises `IndexError` only if asked for more blocks than `free_count`:
    callers ask first.
    """

    def __init__(self, num_blocks: int, *, prefix_cache: bool = True) -> None:
        if num_blocks < 1:
            raise ValueError(f"a block pool needs at least one block, not {num_blocks}")
        self.num_blocks = num_blocks
        self._prefix_cache = prefix_cache
        self._counts = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._by_hash: dict[bytes, int] = {}
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: the last one freed is warm
        self._cached_free: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def free_count(self) -> int:
        """Blocks that `allocate` could hand out: the cached ones nobody holds count as free."""
        return len(self._free) + len(self._cached_free)

    @property
    def used_count(self) -> int:
        """Blocks that somebody holds."""
        return self.num_blocks - self.free_count

    def count(self, block: int) -> int:
        """How many holders `block` has."""
        return self._counts[block]

    def allocate(self, number: int) -> list[int]:
        """Hand out `number` blocks, each with one holder; their content is undefined."""
        return [self._take() for _ in range(number)]

    def acquire_prefix(self, hashes: Iterable[bytes]) -> list[int]:
        """Hold the blocks of the longest cached prefix of this hash chain, and return them."""
        blocks = []
        for key in hashes:
            block = self._by_hash.get(key)
            if block is None:
                break
            if self._counts[block] == 0:
                del self._cached_free[block]
            self._counts[block] += 1
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, in its order: chains are evicted from their tails."""
        for block in reversed(blocks):
            self._counts[block] -= 1
            assert self._counts[block] >= 0, f"block {block} was released more often than held"
            if self._counts[block] > 0:
                continue
            if self._hashes[block] is None:
                self._free.append(block)
            else:
                self._cached_free[block] = None

    def register(self, block: int, key: bytes) -> None:
        """Make a held, full, computed block findable. The first of equal blocks is the one kept."""
        if self._prefix_cache and self._hashes[block] is None and key not in self._by_hash:
            self._hashes[block] = key
            self._by_hash[key] = block

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        elif self._cached_free:
            block, _ = self._cached_free.popitem(last=False)
            self._forget(block)
        else:
            raise IndexError("the block pool is empty")
        self._counts[block] = 1
        return block

    def _forget(self, block: int) -> None:
        key = self._hashes[block]
        assert key is not None
        self._hashes[block] = None
        del self._by_hash[key]
