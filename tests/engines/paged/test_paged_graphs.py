"""Which sizes of steps are captured: every size fits one, and not much is padded."""

from __future__ import annotations

import pytest

from enginebench_paged.graphs import decode_buckets, mixed_buckets


@pytest.mark.parametrize("largest", [1, 3, 8, 60, 64, 256, 300, 1000])
def test_decode_buckets_end_at_the_largest_batch(largest: int) -> None:
    sizes = decode_buckets(largest)
    assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == largest
    for batch in range(8, largest + 1):
        assert min(size for size in sizes if size >= batch) <= max(batch + 7, batch * 1.25)


def test_small_mixed_buckets_hold_a_few_guesses() -> None:
    assert mixed_buckets(256, small=True)[:4] == [8, 16, 32, 64]
    assert mixed_buckets(256, small=True)[4:] == mixed_buckets(256)


@pytest.mark.parametrize("largest", [64, 128, 1000, 2048, 4096, 5000])
def test_mixed_buckets_end_at_the_token_budget(largest: int) -> None:
    sizes = mixed_buckets(largest)
    assert sizes == sorted(set(sizes)) and sizes[-1] == largest
    for tokens in range(512, largest + 1):
        assert min(size for size in sizes if size >= tokens) <= tokens * 1.25
