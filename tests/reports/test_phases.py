"""Prompts and answers under way, from requests whose times are written down."""

from __future__ import annotations

import pytest
from simulated import record

from enginebench.schemas import records_table
from enginebench_reports.measured import Measured
from enginebench_reports.phases import COLUMNS, phases


def figures(*requests: tuple[float, float, float]) -> dict[str, float | None]:
    """Of requests with these times of sending, first token and end, in ms."""
    records = [
        record(index, scheduled_ms=sent, chunks_ms=(first, end))
        for index, (sent, first, end) in enumerate(requests)
    ]
    found = dict(phases(Measured.of(records_table(records))))
    assert list(found) == [column.name for column in COLUMNS]
    return found


def test_a_lone_prompt_takes_its_ttft() -> None:
    alone = figures((0, 200, 900), (900, 1100, 1900))
    assert alone == {"prompt_s": pytest.approx(0.2), "answering_max": 1}


def test_prompts_of_a_burst_are_shared_out() -> None:
    """Four at once, computed one after the other: TTFT is 2.5 prompts on average."""
    burst = figures(*((0, 200.0 * (n + 1), 2000) for n in range(4)))
    assert burst["prompt_s"] == pytest.approx(0.2)
    staggered = figures(*((n, n + 200.0 * (n + 1), 2000) for n in range(4)))
    assert staggered["prompt_s"] == pytest.approx(0.2)
    assert burst["answering_max"] == staggered["answering_max"] == 4


def test_who_serves_one_request_at_a_time_answers_one_at_a_time() -> None:
    queue = figures((0, 100, 1000), (1, 1100, 2000), (2, 2100, 3000))
    assert queue["answering_max"] == 1


def test_without_an_answer_there_is_no_figure() -> None:
    failed = record(error="no", chunks_ms=())
    assert phases(Measured.of(records_table([failed]))) == {
        "prompt_s": None,
        "answering_max": None,
    }
