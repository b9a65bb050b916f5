from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import cell, data, record, save

from enginebench.schemas import records_table
from enginebench.slo import Slo
from enginebench.types import RequestRecord
from enginebench_reports.goodput import met
from enginebench_reports.measured import Measured

SECOND = 1_000_000_000
TIMES = st.sampled_from([0.0, 50.0, 100.0, 150.0, 300.0])


@st.composite
def any_record(draw: st.DrawFn) -> RequestRecord:
    gaps = draw(st.lists(TIMES, max_size=4))
    times = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    tokens = draw(st.lists(st.integers(0, 3), min_size=len(gaps), max_size=len(gaps)))
    return record(
        scheduled_ms=0,
        chunks_ms=times,
        tokens=tokens,
        end_ms=(times[-1] if times else 0) + draw(TIMES),
        completion_tokens=draw(st.sampled_from([None, sum(tokens)])),
    )


@given(
    st.lists(any_record(), min_size=1, max_size=6),
    st.sampled_from(["ttft=100ms", "tpot=50ms", "e2e=300ms", "ttft=150ms,tpot=100ms,e2e=1s"]),
)
@settings(max_examples=60, deadline=None)
def test_all_at_once_says_what_each_request_says(records: list[RequestRecord], text: str) -> None:
    slo = Slo.parse(text)
    together = met(Measured.of(records_table(records)), slo)
    assert together.tolist() == [slo.met_by(each) for each in records]


def test_failed_requests_count_and_meet_nothing(tmp_path: Path) -> None:
    records = [
        record(0, chunks_ms=(100, 200)),
        record(1, chunks_ms=(600, 700)),
        record(2, error="reset"),
        record(3, chunks_ms=(100, 1900)),  # ends outside of the window
    ]
    window = {"measure_start_ns": 0, "measure_end_ns": SECOND}
    results = save(tmp_path / "run", [(cell(0, "quant", 1), data(records, **window))])
    row = results.with_slo(Slo.parse("ttft=500ms")).to_pandas().iloc[0]
    assert row["slo_met_share"] == pytest.approx(2 / 4)
    assert row["goodput_rps"] == pytest.approx(1.0)
    assert results.to_pandas()[["slo_met_share", "goodput_rps"]].isna().all(axis=None)
