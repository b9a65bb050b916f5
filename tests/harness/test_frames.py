from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import enginebench
from enginebench.frames import CHUNK_COLUMNS, REQUEST_COLUMNS
from enginebench.results import CellStatus, ResultSet
from enginebench.store import CellData, load, save_run
from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    Plan,
    RequestRecord,
    WorkloadSpec,
)

MS = 1_000_000
START = 5_000 * MS


def record(index: int, chunks_ms: tuple[int, ...], **facts: object) -> RequestRecord:
    times = tuple(START + ms * MS for ms in chunks_ms)
    usual: dict[str, object] = {
        "phase": "measure",
        "scheduled_ns": START + index * MS,
        "sent_ns": START + index * MS,
        "end_ns": times[-1] if times else START + 9 * MS,
        "chunk_tokens": (1,) * len(times),
        "token_count_source": "usage",
    }
    return RequestRecord(request_index=index, user=0, chunk_ns=times, **(usual | facts))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    cells = tuple(
        Cell(
            place,
            EngineSpec("a", "m", Hardware(cpu_threads=1)),
            WorkloadSpec("fixed"),
            Load(users=place + 1),
            Budget(),
            0,
            0,
            f"cell-{place}",
        )
        for place in range(3)
    )
    records = [
        record(0, (10, 30, 50), completion_tokens=5),
        record(1, (), error="reset"),
        record(2, (12,), phase="warmup"),
    ]
    sample = {"t_ns": START + 500 * MS, "cpu_percent": 50.0}
    full = CellData(CellStatus("ok"), (), records, [sample])
    plan = Plan("p", 0, cells, {"m": ModelInfo("m", "gguf")}, ())
    path = tmp_path_factory.mktemp("frames") / "run"
    save_run(path, plan, {"cell-0": full, "cell-1": CellData(CellStatus("failed", error="no"))})
    return load(path)


def test_requests_are_seconds_from_the_first_that_was_due(results: ResultSet) -> None:
    frame = results.frames.requests.set_index("request_index")
    first = frame.loc[0]
    assert first[["scheduled_s", "first_chunk_s", "end_s"]].tolist() == [0.0, 0.01, 0.05]
    assert first["ttft_s"] == pytest.approx(0.01)
    assert first["tpot_s"] == pytest.approx(0.04 / 4)  # five tokens as the server counts
    assert (first["output_tokens"], first["chunks"]) == (5, 3)
    assert frame.loc[1, ["ttft_s", "tpot_s", "e2e_s"]].isna().all()
    assert frame.loc[1, "error"] == "reset"
    assert frame.loc[2, "phase"] == "warmup"
    assert frame.loc[2, ["tpot_s"]].isna().all()


def test_chunks_and_their_gaps(results: ResultSet) -> None:
    frame = results.frames.chunks
    assert frame["request_index"].tolist() == [0, 0, 0, 2]
    assert frame["chunk"].tolist() == [0, 1, 2, 0]
    assert frame["gap_s"].isna().tolist() == [True, False, False, True]
    assert frame["gap_s"].dropna().tolist() == pytest.approx([0.02, 0.02])


def test_telemetry_is_on_the_same_clock(results: ResultSet) -> None:
    frame = results.frames.telemetry
    assert frame[["cell", "t_s", "cpu_percent"]].values.tolist() == [["cell-0", 0.5, 50.0]]


def test_cells_without_records_add_no_rows(results: ResultSet) -> None:
    assert len(results.frames.cells) == 3
    assert set(results.frames.requests["cell"]) == {"cell-0"}
    nothing = ResultSet([]).frames
    assert list(nothing.requests.columns) == list(REQUEST_COLUMNS)
    assert list(nothing.chunks.columns) == list(CHUNK_COLUMNS)
    assert nothing.telemetry.empty


def test_figures_agree_with_the_metrics() -> None:
    run = Path(__file__).parents[1] / "reports" / "runs" / "schema_1"
    results = enginebench.load(run)
    requests = results.frames.requests
    measured = requests[requests["phase"] == "measure"].groupby("cell")
    cells = results.frames.cells.set_index("cell")
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        for cell, value in measured[name].median().items():
            assert value == pytest.approx(cells.loc[cell, f"{name}_p50"])  # type: ignore[index]


def documented() -> Iterator[str]:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("| `"):
            yield from re.findall(r"`([^`]+)`", line.split("|")[1])


def test_every_column_is_documented() -> None:
    assert {*REQUEST_COLUMNS, *CHUNK_COLUMNS} <= set(documented())
