from __future__ import annotations

from typing import Any

import pytest

from enginebench.errors import UnknownNameError, UsageError
from enginebench.slo import Slo
from enginebench.types import RequestRecord

MS = 1_000_000


def record(**facts: Any) -> RequestRecord:
    """Sent at 0, first of three chunks (6 tokens) at 100 ms, the end at 150 ms: TPOT 10 ms."""
    usual: dict[str, Any] = {
        "request_index": 0,
        "user": 0,
        "phase": "measure",
        "scheduled_ns": 0,
        "sent_ns": 20 * MS,
        "end_ns": 150 * MS,
        "chunk_ns": (100 * MS, 120 * MS, 150 * MS),
        "chunk_tokens": (1, 2, 3),
        "token_count_source": "usage",
    }
    return RequestRecord(**(usual | facts))


@pytest.mark.parametrize("text", ["ttft=500ms,tpot=50ms", "ttft=1.5s", "e2e=10s", "tpot=0.25ms"])
def test_what_is_typed_comes_back(text: str) -> None:
    assert str(Slo.parse(text)) == text


def test_bounds_are_seconds() -> None:
    slo = Slo.parse(" ttft = 500 ms , e2e=2s, tpot=900us")
    assert slo.bounds_s == pytest.approx({"ttft": 0.5, "tpot": 9e-4, "e2e": 2.0})


@pytest.mark.parametrize(
    "text",
    ["", "ttft", "ttft=", "ttft=500", "ttft=-1s", "ttft=0s", "ttft=1..2s", "ttft=1s,ttft=2s", ","],
)
def test_what_is_no_objective_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="SLO"):
        Slo.parse(text)


def test_an_unknown_latency_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean ttft.*e2e, tpot, ttft"):
        Slo.parse("tft=1s")


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("ttft=100ms", True),  # from the scheduled send; a bound just reached is kept
        ("ttft=99ms", False),
        ("tpot=10ms", True),
        ("tpot=9.9ms", False),
        ("e2e=150ms", True),
        ("ttft=1s,e2e=149ms", False),
    ],
)
def test_each_bound_is_kept_or_broken(text: str, met: bool) -> None:
    assert Slo.parse(text).met_by(record()) is met


def test_a_failed_request_meets_nothing() -> None:
    assert not Slo.parse("e2e=10s").met_by(record(error="reset"))


def test_without_text_there_is_no_first_token_in_time() -> None:
    silent = record(chunk_ns=(), chunk_tokens=())
    assert not Slo.parse("ttft=10s").met_by(silent)
    assert Slo.parse("e2e=10s,tpot=1ms").met_by(silent)


def test_the_servers_count_of_tokens_goes_first() -> None:
    assert Slo.parse("tpot=5ms").met_by(record(completion_tokens=11))


def test_one_chunk_has_no_tpot_to_break() -> None:
    assert Slo.parse("tpot=1us").met_by(record(chunk_ns=(100 * MS,), chunk_tokens=(6,)))
