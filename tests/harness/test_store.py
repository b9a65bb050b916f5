"""Run folders: what is written comes back, what is damaged is named, nothing is half-written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import enginebench
from enginebench import schemas
from enginebench.cell_folder import CellFolder
from enginebench.errors import StoreError, UsageError
from enginebench.results import CellStatus
from enginebench.run_folder import RunFolder
from enginebench.run_settings import RunSettings
from enginebench.store import CellData, load, read_records, save_run
from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    Message,
    ModelInfo,
    Plan,
    Request,
    RequestRecord,
    WorkloadSpec,
)

RECORDS = (
    RequestRecord(0, 3, "warmup", 10, 11, 30, (20, 25), (1, 2), "usage", 5, 3, 4, "stop", 200),
    RequestRecord(1, 0, "measure", 10, 11, 12, (), (), None, error="refused", text="é\n"),
)
REQUESTS = (
    Request(0, "text", 8, 0.5, {"temperature": 0.0, "ignore_eos": True}),
    Request(1, (1, 2, 3), 8),
    Request(2, (Message("user", "hi"), Message("assistant", "ho")), 8),
)


def cell(index: int, load: Load) -> Cell:
    options = {"block_size": 16, "ratio": 1.0, "graphs": True, "dtype": "bf16"}
    spec = EngineSpec("paged", "m", Hardware(2, (0, 1)), options)
    workload = WorkloadSpec("fixed", {"input_tokens": 4})
    return Cell(index, spec, workload, load, Budget(8, 2.5, 3), 1, 1 << 60, f"{index:03d}-paged")


CELLS = (cell(0, Load(users=4)), cell(1, Load(rate_rps=0.5)))
PLAN = Plan("first", 7, CELLS, {"m": ModelInfo("m", "gguf", "/models/m.gguf", parameters=1 << 40)})
DATA = CellData(CellStatus("ok", ready_s=1.5), REQUESTS, RECORDS, [{"t_ns": 5, "rss_bytes": 7}])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Run with one sealed and one pending cell."""
    save_run(
        tmp_path / "run",
        PLAN,
        {"000-paged": DATA},
        command="bench run",
        machine={"cpu": {"model": "any"}, "gpus": []},
        versions={"numpy": "2.0"},
    )
    return tmp_path / "run"


# ---------------------------------------------------------------- there and back


def test_a_run_comes_back_as_it_was(folder: Path) -> None:
    run = RunFolder.open(folder)
    assert run.plan == PLAN
    assert run.head.settings == RunSettings()
    assert (run.info.name, run.info.command) == ("first", "bench run")
    assert run.info.machine == {"cpu": {"model": "any"}, "gpus": []}
    assert run.info.versions == {"numpy": "2.0"}
    assert run.info.created_at.endswith("+00:00")
    assert (
        msgspec.json.decode((folder / "cells/000-paged/cell.json").read_bytes(), type=Cell)
        == (CELLS[0])
    )


def test_cells_come_back_with_their_facts(folder: Path) -> None:
    sealed, pending = load(folder)
    assert sealed.status == DATA.status and sealed.model == PLAN.models["m"]
    rows = sealed.records.to_pylist()
    for row in rows:
        row |= {name: tuple(row[name]) for name in ("chunk_ns", "chunk_tokens")}
    assert tuple(RequestRecord(**row) for row in rows) == RECORDS
    assert sealed.telemetry.to_pylist()[0]["rss_bytes"] == 7
    assert pending.status == CellStatus("pending")
    assert pending.records.num_rows == pending.telemetry.num_rows == pending.requests.num_rows == 0
    assert pending.records.schema == sealed.records.schema


def test_requests_come_back_with_their_prompts(folder: Path) -> None:
    text, ids, chat = load(folder).cells[0].requests.to_pylist()
    assert (text["prompt_text"], text["prompt_tokens"], text["scheduled_s"]) == ("text", None, 0.5)
    assert json.loads(text["body"]) == {"temperature": 0.0, "ignore_eos": True}
    assert ids["prompt_tokens"] == [1, 2, 3]
    assert [each["content"] for each in chat["prompt_messages"]] == ["hi", "ho"]


def test_the_columns_are_the_fields() -> None:
    assert schemas.records_schema().names == [field.name for field in fields(RequestRecord)]


def test_loading_takes_paths_lists_and_folders_of_runs(folder: Path) -> None:
    other = folder.with_name("second")
    save_run(other, PLAN, {})
    assert len(load(folder)) == 2
    assert len(load(str(folder), other)) == 4
    assert len(load([folder, other])) == 4
    assert [run.folder for run in load(folder.parent).runs] == [folder, other]
    assert enginebench.load is load


records = st.builds(
    RequestRecord,
    request_index=st.integers(0, 1 << 62),
    user=st.integers(0, 1 << 30),
    phase=st.sampled_from(["warmup", "measure"]),
    scheduled_ns=st.integers(0, 1 << 62),
    sent_ns=st.integers(0, 1 << 62),
    end_ns=st.integers(0, 1 << 62),
    chunk_ns=st.just((1, 1 << 62)),
    chunk_tokens=st.just((0, 9)),
    token_count_source=st.sampled_from([None, "usage", "token_ids"]),
    completion_tokens=st.none() | st.integers(0, 1 << 30),
    error=st.none() | st.text(),
    text=st.text(),
)


@given(rows=st.lists(records, max_size=5), cut=st.integers(0, 40))
def test_what_a_driver_wrote_is_read_up_to_the_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, rows: Sequence[RequestRecord], cut: int
) -> None:
    folder = CellFolder(tmp_path_factory.mktemp("cell"))
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    folder.records_jsonl.write_bytes(lines + msgspec.json.encode(RECORDS[0])[:cut])
    table = folder.records()
    assert table == schemas.records_table(rows)
    assert folder.pack_records() == table
    assert not folder.records_jsonl.exists()
    assert folder.records() == table


def test_many_records_are_small_and_quick(tmp_path: Path) -> None:
    """The times of chunks, most of the data, shrink to a few bytes each."""
    folder = CellFolder(tmp_path)
    times = tuple(10**15 + 10**7 * n + n * n % 977 for n in range(64))
    row = RequestRecord(0, 0, "measure", 1, 1, 1, times, (1,) * 64, "usage")
    folder.records_jsonl.write_bytes((msgspec.json.encode(row) + b"\n") * 10_000)
    assert folder.pack_records().num_rows == 10_000
    assert (tmp_path / "records.parquet").stat().st_size < 4 * 640_000


# ---------------------------------------------------------------- what is wrong is named


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("run.json", b"{", "run.json: .*the Run folder is damaged"),
        ("run.json", b'{"schema_version": 2}', r"newer enginebench \(schema 2.*pip install"),
        ("plan.json", b'{"name": 3}', "plan.json: Expected `str`.* damaged"),
        ("machine.json", None, "machine.json: .*No such file"),
        ("cells/000-paged/status.json", b"", "status.json: .*remove it, then `bench run --resume`"),
    ],
)
def test_damaged_files_are_named_with_a_fix(
    folder: Path, name: str, contents: bytes | None, message: str
) -> None:
    if contents is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(contents)
    with pytest.raises(StoreError, match=message):
        load(folder)


@pytest.mark.parametrize("contents", [b"", b"PAR1 nonsense PAR1", None])
def test_damaged_tables_are_named_with_a_fix(folder: Path, contents: bytes | None) -> None:
    path = folder / "cells/000-paged/records.parquet"
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)
    with pytest.raises(StoreError, match=r"records\.parquet is (damaged|missing).*--resume"):
        read_records(path.parent)


def test_a_truncated_table_is_damaged(folder: Path) -> None:
    path = folder / "cells/000-paged/telemetry.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"telemetry\.parquet is damaged"):
        _ = load(folder).cells[0].telemetry


def test_a_table_that_lacks_a_column_is_damaged(folder: Path) -> None:
    path = folder / "cells/000-paged/records.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["sent_ns"]), path)
    with pytest.raises(StoreError, match=r"records\.parquet is damaged: .*sent_ns"):
        _ = load(folder).cells[0].records


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense\n", "lines that are no records"),
        (b'{"request_index": "x"}\n', "lines that are no records"),
        (b'{"request_index": 1}\n', "a record without 'user'"),
    ],
)
def test_lines_that_are_no_records_are_refused(tmp_path: Path, line: bytes, message: str) -> None:
    folder = CellFolder(tmp_path)
    folder.records_jsonl.write_bytes(line)
    with pytest.raises(StoreError, match=f"records.jsonl holds {message}"):
        folder.records()
    with pytest.raises(StoreError):
        folder.seal(CellStatus("ok"))
    assert folder.status().state == "pending"
    folder.seal(CellStatus("failed", error="the driver went mad"))
    assert folder.records().num_rows == 0
    assert folder.records_jsonl.read_bytes() == line


def test_chunks_without_counts_are_refused(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path)
    row = RequestRecord(0, 0, "measure", 1, 1, 1, (1, 2), (1,), "usage")
    folder.records_jsonl.write_bytes(msgspec.json.encode(row) + b"\n")
    with pytest.raises(StoreError, match="more chunk_ns than chunk_tokens"):
        folder.records()


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing is no folder"):
        load(tmp_path / "missing")
    with pytest.raises(StoreError, match=r"is no Run folder and holds none.*run\.json"):
        load(tmp_path)
    with pytest.raises(StoreError, match="no Run folder was named"):
        load()
    with pytest.raises(StoreError, match="is no Run folder"):
        RunFolder.open(tmp_path)


def test_an_existing_folder_is_never_touched(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UsageError, match=r"exists already; .*--resume") as caught:
        RunFolder.create(folder, PLAN)
    assert caught.value.exit_code == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_cells_that_the_plan_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cells 999-x"):
        save_run(tmp_path / "run", PLAN, {"999-x": DATA})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- whole or not at all


def test_a_folder_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def sync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr("enginebench.atomic.os.fsync", sync)
    with pytest.raises(StoreError, match=r"cannot write .*No space left on device; free some"):
        RunFolder.create(tmp_path / "run", PLAN)
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", PLAN)


FILLING = """
import sys
from pathlib import Path
from enginebench.cell_folder import CellFolder
from enginebench.errors import StoreError
from enginebench.results import CellStatus
folder = CellFolder(Path(sys.argv[1]))
try:
    folder.seal(CellStatus("ok"))
except StoreError as error:
    print(error)
"""


def test_a_disk_that_is_really_full_keeps_the_records(tmp_path: Path) -> None:
    """The size of files is limited, so that the parquet file cannot be finished."""
    folder = CellFolder(tmp_path)
    rows = b"".join(
        msgspec.json.encode(RequestRecord(n, 0, "measure", n, n, n, (), (), None, text=f"{n**9}"))
        + b"\n"
        for n in range(9000)
    )
    folder.records_jsonl.write_bytes(rows)
    limit = (20_000, 20_000)
    result = subprocess.run(
        [sys.executable, "-c", FILLING, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
    )
    assert "cannot write" in result.stdout and "records.parquet" in result.stdout, result.stderr
    assert "free some space" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]
    assert folder.records_jsonl.read_bytes() == rows
    folder.seal(CellStatus("ok"))
    assert folder.records().num_rows == 9000


def test_a_failed_replacement_leaves_the_old_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = CellFolder(folder / "cells/000-paged")

    def replace(source: Path, target: Path) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("enginebench.atomic.os.replace", replace)
    with pytest.raises(StoreError, match="Permission denied; check"):
        sealed.write_records(())
    assert sealed.records().num_rows == 2
    assert not list(sealed.path.glob(".*"))


def test_beginning_again_removes_the_earlier_attempt(folder: Path) -> None:
    sealed = CellFolder(folder / "cells/000-paged")
    sealed.begin(CELLS[0])
    assert [path.name for path in sealed.path.iterdir()] == ["cell.json"]
    assert sealed.status().state == "pending"


def test_the_drivers_orders_are_for_our_eyes_only(tmp_path: Path) -> None:
    from enginebench.drive import DriveJob

    folder = CellFolder(tmp_path)
    folder.write_job(DriveJob("http://x", "m", Load(1), Budget(1), "a", "b", api_key="secret"))
    assert folder.job.stat().st_mode & 0o777 == 0o600
    folder.seal(CellStatus("ok"))
    assert not folder.job.exists()


def test_importing_the_store_is_cheap() -> None:
    script = "import sys, enginebench; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "enginebench.store" in shown.stdout.split()
    assert not {"pandas", "pyarrow", "numpy", "torch", "psutil"} & set(shown.stdout.split())


def test_every_column_and_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text()
    names = [
        *schemas.records_schema().names,
        *schemas.requests_schema().names,
        *schemas.telemetry_schema().names,
        *(field.name for field in fields(CellStatus)),
        *(f"settings.{field.name}" for field in fields(RunSettings)),
    ]
    assert [name for name in names if f"`{name}`" not in text] == []
