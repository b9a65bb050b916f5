from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated import MS, Speed, cell, data, record, save, serve

from enginebench.results import CellResult, CellStatus, ResultSet
from enginebench.store import CellData
from enginebench.types import Request, RequestRecord
from enginebench_reports.metrics import serving_figures
from enginebench_reports.summary import Summary
from enginebench_reports.validity import Flag, flags

FINE = [record(i, scheduled_ms=200 * i, chunks_ms=(200 * i + 50, 200 * i + 90)) for i in range(12)]
WINDOW = {"measure_start_ns": 0, "measure_end_ns": 2290 * MS}


def doubts(folder: Path, found: CellData) -> dict[str, Flag]:
    result: CellResult = save(folder / "run", [(cell(0, "paged", 1), found)]).cells[0]
    return {flag.name: flag for flag in flags(result, serving_figures(result))}


def changed(count: int, **facts: Any) -> list[RequestRecord]:
    """FINE, the first `count` of them replaced."""
    return [*(record(i, **facts) for i in range(count)), *FINE[count:]]


def test_a_fine_cell_has_no_flags(tmp_path: Path) -> None:
    assert doubts(tmp_path, data(FINE, **WINDOW)) == {}
    fine = serve(Speed(50, 10, jitter=0.1), 4, requests=40)
    assert doubts(tmp_path / "other", fine) == {}


def test_a_failed_cell_says_why(tmp_path: Path) -> None:
    found = doubts(tmp_path, CellData(CellStatus("failed", error="engine died: exit code -9")))
    assert [*found] == ["failed"]
    assert found["failed"] == Flag("invalid", "failed", "engine died: exit code -9")


@pytest.mark.parametrize(("failed", "level"), [(1, "invalid"), (0, None)])
def test_errors(tmp_path: Path, failed: int, level: str | None) -> None:
    found = doubts(tmp_path, data(changed(failed, error="timeout after 5 s"), **WINDOW))
    assert (found["errors"].level if "errors" in found else None) == level
    if failed:
        assert found["errors"].reason == "1 of 12 requests failed: timeout after 5 s"


def test_a_rare_error_is_a_caution(tmp_path: Path) -> None:
    many = [record(i, scheduled_ms=i * 200) for i in range(199)]
    found = doubts(tmp_path, data([*many, record(199, error="reset")]))
    assert found["errors"].level == "caution"


def test_only_errors(tmp_path: Path) -> None:
    found = doubts(tmp_path, data(changed(12, chunks_ms=(), error="connection refused")))
    assert found["errors"].level == "invalid"


def with_plan(records: list[RequestRecord], max_tokens: int, **body: bool) -> CellData:
    requests = [Request(i, (1,), max_tokens, None, body) for i in range(len(records))]
    return CellData(CellStatus("ok", **WINDOW), requests, records)


def test_answers_of_another_length_than_planned(tmp_path: Path) -> None:
    short = [record(0, chunks_ms=(50,), finish_reason="stop"), *FINE[1:]]
    found = doubts(tmp_path, with_plan(short, 2, ignore_eos=True))
    assert found["lengths_differ"].level == "invalid"
    assert "1 of 12 answers" in found["lengths_differ"].reason
    assert "1 tokens instead of 2" in found["lengths_differ"].reason


def test_answers_that_ended_otherwise_than_planned(tmp_path: Path) -> None:
    found = doubts(
        tmp_path, with_plan(changed(1, chunks_ms=(1, 2), finish_reason="stop"), 2, ignore_eos=True)
    )
    assert "stop" in found["finish_reasons_differ"].reason


def test_where_no_length_is_planned_none_is_wrong(tmp_path: Path) -> None:
    assert doubts(tmp_path, with_plan(changed(1, finish_reason="stop"), 99)) == {}


def test_few_requests(tmp_path: Path) -> None:
    found = doubts(tmp_path, data(FINE[:9], measure_start_ns=0, measure_end_ns=1690 * MS))
    assert [*found] == ["few_requests"]
    assert found["few_requests"].reason.startswith("only 9 measured requests: a p90 needs 10")


def test_a_steady_state_that_never_came_or_was_short(tmp_path: Path) -> None:
    assert [*doubts(tmp_path / "1", data(FINE))] == ["not_steady"]
    short = data(FINE, measure_start_ns=0, measure_end_ns=500 * MS)
    assert [*doubts(tmp_path / "2", short)] == ["short_window"]


def test_a_client_that_sends_late(tmp_path: Path) -> None:
    late = [record(i, scheduled_ms=0, sent_ms=20, chunks_ms=(100, 2300)) for i in range(12)]
    found = doubts(tmp_path, data(late, **WINDOW))
    assert "20.0 ms late" in found["client_queueing"].reason
    prompt = [record(i, scheduled_ms=0, sent_ms=0.5, chunks_ms=(2, 2300)) for i in range(12)]
    assert doubts(tmp_path / "2", data(prompt, **WINDOW)) == {}  # under a millisecond is no queue


def test_a_client_that_has_no_time_left(tmp_path: Path) -> None:
    busy = data(FINE, **WINDOW)
    samples = [{"t_ns": at * 500 * MS, "client_cpu_percent": 90.0} for at in range(5)]
    found = doubts(tmp_path, CellData(busy.status, (), FINE, samples))
    assert "90%" in found["busy_client"].reason
    full = [sample | {"client_cpu_percent": 99.0} for sample in samples]
    found = doubts(tmp_path / "2", CellData(busy.status, (), FINE, full))
    assert found["client_saturated"].level == "invalid" and "busy_client" not in found


@pytest.mark.parametrize(
    ("lag_ms", "flag"),
    [(None, None), (0.9, None), (3.9, None), (4.1, "client_late"), (20.1, "client_lag")],
)
def test_a_client_late_for_its_own_timers(
    tmp_path: Path, lag_ms: float | None, flag: str | None
) -> None:
    """FINE has TTFT 50 ms and gaps of 40 ms."""
    lag_s = None if lag_ms is None else lag_ms / 1e3
    found = doubts(tmp_path, data(FINE, **WINDOW, loop_lag_s_p99=lag_s))
    assert [*found] == ([] if flag is None else [flag])
    if flag is not None:
        assert found[flag].level == ("invalid" if flag == "client_lag" else "caution")
        assert f"{lag_ms} ms (p99) late" in found[flag].reason


@pytest.mark.parametrize(
    ("lag_ms", "flag"),
    [(0.9, None), (8.9, None), (9.1, "client_late"), (46.0, "client_lag")],
)
def test_a_late_client_whose_arrivals_the_kernel_stamped(
    tmp_path: Path, lag_ms: float, flag: str | None
) -> None:
    """FINE's requests take 90 ms: only the next one of a user is sent late."""
    fine = data(FINE, **WINDOW, loop_lag_s_p99=lag_ms / 1e3, stamped_by="kernel")
    found = doubts(tmp_path, fine)
    assert [*found] == ([] if flag is None else [flag])
    if flag is not None:
        assert f"{lag_ms} ms (p99) late" in found[flag].reason
        assert "users asked later" in found[flag].reason


def test_chunks_that_were_read_together(tmp_path: Path) -> None:
    """One gap of 0 in eleven of 6 ms, while the client was late for more than half of one."""
    at = [200 * i + 10 + 6 * k for i in range(12) for k in range(12)]
    rows = [at[12 * i : 12 * i + 12] for i in range(12)]
    for row in rows:
        row[4] = row[5]
    made = [record(i, scheduled_ms=200 * i, chunks_ms=tuple(row)) for i, row in enumerate(rows)]
    found = doubts(tmp_path, data(made, **WINDOW, loop_lag_s_p99=0.0035, stamped_by="kernel"))
    assert [*found] == ["chunks_together"] and "9% of the chunks" in found["chunks_together"].reason
    calm = data(made, **WINDOW, loop_lag_s_p99=0.0025, stamped_by="kernel")
    assert doubts(tmp_path / "2", calm) == {}


def test_an_open_loop_that_ended_before_its_first_answer(tmp_path: Path) -> None:
    planned = cell(0, "paged", 0, rate_rps=4.0)
    result = save(tmp_path / "run", [(planned, data(FINE))]).cells[0]
    (flag,) = flags(result, serving_figures(result))
    assert flag.name == "not_steady" and flag.reason.startswith("no answer had ended")


def test_chunks_counted_as_tokens(tmp_path: Path) -> None:
    guessed = changed(1, token_count_source="chunks")
    assert "tokens_are_chunks" in doubts(tmp_path, data(guessed, **WINDOW))


def test_everything_that_goes_wrong_in_one_run(troubled: ResultSet) -> None:
    summary = Summary.of(troubled)
    names = {each.result.cell.spec.engine: [f.name for f in each.flags] for each in summary.cells}
    assert names == {
        "quant": [],
        "paged": ["failed"],
        "vllm": ["pending"],
        "reset": ["errors"],
        "silent": ["few_requests", "not_steady"],
        "nothing": ["empty"],
    }
