from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import MS, record

from enginebench.results import CellStatus
from enginebench.schemas import records_table
from enginebench.types import RequestRecord
from enginebench_reports.measured import Measured
from enginebench_reports.throughput import Window, throughput


def figures(records: list[RequestRecord], **window: Any) -> dict[str, float | None]:
    status = CellStatus("ok", **{name: ms * MS for name, ms in window.items()})
    measured = Measured.of(records_table(records))
    return dict(throughput(measured, Window.of(status, measured)))


def test_tokens_count_when_their_chunk_arrives_inside_the_window() -> None:
    records = [record(0, chunks_ms=(100, 1100, 2100, 3100), tokens=(1, 2, 4, 8))]
    found = figures(records, measure_start_ns=1000, measure_end_ns=3000)
    assert found["output_tokens_per_s"] == pytest.approx(3)  # (2 + 4) / 2 s
    assert found["window_s"] == pytest.approx(2)
    assert found["window_is_steady"] == 1


def test_requests_count_where_they_end_and_prompts_where_they_are_answered() -> None:
    records = [
        record(0, chunks_ms=(500, 1500)),
        record(1, chunks_ms=(1200, 1800)),
        record(2, chunks_ms=(1900, 2500)),
    ]
    found = figures(records, measure_start_ns=1000, measure_end_ns=2000)
    assert found["requests_per_s"] == pytest.approx(2)
    assert found["prompt_tokens_per_s"] == pytest.approx(2 * 128)


def test_without_a_steady_state_the_span_of_the_requests_stands_in() -> None:
    records = [record(0, chunks_ms=(1000, 2000)), record(1, scheduled_ms=2000, chunks_ms=(4000,))]
    found = figures(records)
    assert found["window_is_steady"] == 0
    assert found["window_s"] == pytest.approx(4)
    assert found["output_tokens_per_s"] == pytest.approx(3 / 4)


def test_a_count_of_the_whole_answer_is_spread_over_its_chunks() -> None:
    """The server says 40, four chunks were seen: each stands for ten."""
    records = [record(0, chunks_ms=(500, 1500, 1700, 2500), completion_tokens=40)]
    found = figures(records, measure_start_ns=1000, measure_end_ns=2000)
    assert found["output_tokens_per_s"] == pytest.approx(20)


def test_tokens_of_failed_requests_and_of_the_warm_up_never_count() -> None:
    window = {"measure_start_ns": 0, "measure_end_ns": 1000}
    fine = [record(0)]
    others = [record(1, error="timeout"), record(2, phase="warmup")]
    assert figures([*fine, *others], **window) == figures(fine, **window)


def test_nothing_measured_has_no_rate() -> None:
    assert set(figures([]).values()) == {None}
    found = figures([record(0, error="refused")], measure_start_ns=0, measure_end_ns=1000)
    assert found["output_tokens_per_s"] is None
    assert found["window_s"] == 1


def test_share_of_cached_prompt() -> None:
    records = [record(0, cached_prompt_tokens=64), record(1, cached_prompt_tokens=0)]
    assert figures(records)["cached_prompt_share"] == pytest.approx(0.25)
    assert figures([record(0)])["cached_prompt_share"] is None


def test_unknown_prompt_lengths_make_no_rate() -> None:
    assert figures([record(0, prompt_tokens=None)])["prompt_tokens_per_s"] is None


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1, max_size=9),
    st.integers(1, 99),
)
def test_two_windows_side_by_side_add_up(chunks: list[list[int]], cut: int) -> None:
    records = [
        record(i, chunks_ms=[100 * (place + 1) - 50 for place in range(len(tokens))], tokens=tokens)
        for i, tokens in enumerate(chunks)
    ]

    def tokens_between(start: int, end: int) -> float:
        rate = figures(records, measure_start_ns=start, measure_end_ns=end)["output_tokens_per_s"]
        assert rate is not None
        return rate * (end - start) / 1000

    middle = 10 * cut + 1  # chunks arrive at 50, 150, 250 ...: none of them at the cut
    total = sum(map(sum, chunks))
    assert tokens_between(0, middle) + tokens_between(middle, 2000) == pytest.approx(total)
