"""TTFT, TPOT and ITL against examples worked out by hand, and laws that hold for any stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import MS, record

from enginebench.schemas import records_table
from enginebench.types import RequestRecord
from enginebench_reports.latency import COLUMNS, latency
from enginebench_reports.measured import Measured


def figures(records: Sequence[RequestRecord]) -> dict[str, float]:
    """Without the columns that are None."""
    found = latency(Measured.of(records_table(records)))
    assert list(found) == [column.name for column in COLUMNS]
    return {name: value for name, value in found.items() if value is not None}


def twice(one: RequestRecord) -> list[RequestRecord]:
    """The smallest sample that has a median: the same again, long after."""
    hour_ns = 3_600_000 * MS
    again = replace(
        one,
        scheduled_ns=one.scheduled_ns + hour_ns,
        sent_ns=one.sent_ns + hour_ns,
        end_ns=one.end_ns + hour_ns,
        chunk_ns=tuple(at + hour_ns for at in one.chunk_ns),
    )
    return [one, again]


def test_one_stream_by_hand() -> None:
    late = record(scheduled_ms=10, sent_ms=14, chunks_ms=(110, 130, 160), end_ms=164)
    found = figures(twice(late))
    assert found["ttft_s_p50"] == pytest.approx(0.100)
    assert found["ttft_from_send_s_p50"] == pytest.approx(0.096)
    assert found["tpot_s_p50"] == pytest.approx((0.164 - 0.110) / 2)
    assert found["itl_s_p50"] == pytest.approx(0.025)  # of 20, 30, 20, 30
    assert found["e2e_s_p50"] == pytest.approx(0.154)


def test_chunks_of_several_tokens_by_hand() -> None:
    many = record(chunks_ms=(100, 140, 200), tokens=(3, 4, 2))
    found = figures(twice(many))
    assert found["tpot_s_p50"] == pytest.approx(0.100 / 6)  # 9 tokens, 3 came first
    assert found["itl_s_p50"] == pytest.approx(0.010)  # 4 x 10 ms and 2 x 30 ms, twice
    assert found["chunk_gap_s_p50"] == pytest.approx(0.050)


def test_the_servers_count_beats_the_chunks() -> None:
    found = figures(twice(record(chunks_ms=(100, 200), tokens=(1, 1), completion_tokens=11)))
    assert found["tpot_s_p50"] == pytest.approx(0.010)


def test_a_chunk_without_tokens_lengthens_the_next_gap() -> None:
    found = figures(twice(record(chunks_ms=(100, 110, 130), tokens=(1, 0, 1))))
    assert found["itl_s_p50"] == pytest.approx(0.030)
    assert found["chunk_gap_s_p50"] == pytest.approx(0.015)


def test_gaps_between_requests_are_no_gaps() -> None:
    found = figures([record(0), record(1, scheduled_ms=9000, chunks_ms=(9100, 9110, 9120))])
    assert found["itl_s_p50"] == pytest.approx(0.010)
    assert found["itl_samples"] == 4


def test_an_answer_of_one_chunk_has_no_pace() -> None:
    found = figures(twice(record(chunks_ms=(100,), tokens=(5,), end_ms=130)))
    assert "tpot_s_p50" not in found
    assert "itl_s_p50" not in found
    assert found["ttft_s_p50"] == pytest.approx(0.1)


def test_warm_up_and_failures_have_no_latency() -> None:
    slow = (9000, 9900)
    others = [
        record(5, chunks_ms=slow, phase="warmup"),
        record(6, chunks_ms=slow, error="connection reset"),
    ]
    fine = twice(record())
    assert figures([*others, *fine]) == figures(fine)


def test_nothing_measured() -> None:
    assert figures([]) == {"itl_samples": 0}


def test_streams_that_share_steps_are_no_independent_samples() -> None:
    """16 streams in lockstep have 16 x 20 gaps, but only 20 steps made them."""
    steps = tuple(range(100, 100 + 21 * 10, 10))
    found = figures([record(user, chunks_ms=steps) for user in range(16)])
    assert found["itl_samples"] == pytest.approx(20)
    assert "itl_s_p90" in found
    assert "itl_s_p99" not in found


gaps = st.lists(st.integers(1, 500), min_size=2, max_size=20)
streams = st.lists(st.tuples(st.integers(1, 5000), gaps), min_size=2, max_size=12)


def stream(index: int, ttft_ms: int, between_ms: Sequence[int]) -> RequestRecord:
    times = [ttft_ms]
    for gap in between_ms:
        times.append(times[-1] + gap)
    return record(index, chunks_ms=times)


@given(streams, st.integers(1, 60_000))
def test_tpot_and_itl_never_include_ttft(found: list[tuple[int, list[int]]], delay: int) -> None:
    prompt = figures([stream(i, ttft, between) for i, (ttft, between) in enumerate(found)])
    late = figures([stream(i, ttft + delay, between) for i, (ttft, between) in enumerate(found)])
    for name in ("tpot_s_p50", "tpot_s_p90", "itl_s_p50"):
        assert late.get(name) == pytest.approx(prompt.get(name))
    assert late["ttft_s_p50"] == pytest.approx(prompt["ttft_s_p50"] + delay / 1000)


@given(streams, st.randoms())
def test_the_order_of_records_changes_nothing(
    found: list[tuple[int, list[int]]], random: object
) -> None:
    records = [stream(i, ttft, between) for i, (ttft, between) in enumerate(found)]
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert figures(shuffled) == pytest.approx(figures(records))


@given(st.lists(st.integers(1, 8), min_size=2, max_size=30), st.integers(1, 100))
def test_an_even_pace_is_seen_through_any_chunking(tokens: list[int], pace_ms: int) -> None:
    """A chunk of k tokens arrives k paces after the one before it."""
    times = [1000]
    for count in tokens[1:]:
        times.append(times[-1] + count * pace_ms)
    found = figures(twice(record(chunks_ms=times, tokens=tokens)))
    assert found["tpot_s_p50"] == pytest.approx(pace_ms / 1000)
    assert found["itl_s_p50"] == pytest.approx(pace_ms / 1000)
