"""The executor against real processes: stub servers that die, hang or refuse, and a stub driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import stub_bench
from stub_bench import QUICK, stub_manager, stub_plan

import enginebench
from enginebench import hookimpl
from enginebench.drive import DriveProgress
from enginebench.errors import StoreError, UnknownNameError, UsageError
from enginebench.execute import RunOutcome, resume, run_plan
from enginebench.plugins import Origin
from enginebench.progress import Silent
from enginebench.results import CellResult, CellStatus
from enginebench.run_folder import RunFolder
from enginebench.search import Found, More
from enginebench.types import Cell, Hardware, Load, Plan, Search


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "run.pids"


def run(plan: Plan, folder: Path, *, driver: str = "ok", **settings: object) -> RunOutcome:
    return run_plan(
        plan,
        folder,
        Silent(),
        command="bench run stub",
        settings=replace(QUICK, **settings),  # type: ignore[arg-type]
        manager=stub_manager(folder.with_suffix(".pids"), driver),
    )


def gone(pids: Path, *, within_s: float = 5.0) -> bool:
    """Whether every process that a stub noted is gone (a zombie is: its parent is init)."""
    noted = [int(line) for line in pids.read_text().split()]
    assert noted
    return until(lambda: not any(map(alive, noted)), within_s)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# ---------------------------------------------------------------- what goes well


def test_cells_are_sealed_with_records_telemetry_and_logs(folder: Path, pids: Path) -> None:
    outcome = run(stub_plan("ok", "ok", pause_s=0.1), folder)
    assert (outcome.ok, outcome.failed) == (2, 0)
    for cell in enginebench.load(folder):
        assert cell.status.state == "ok"
        assert cell.status.engine_version == "1.2"
        assert cell.status.ready_s is not None and 0 < cell.status.ready_s < 20
        assert cell.records["request_index"].to_pylist() == [0, 1, 2]
        assert cell.requests["prompt_text"].to_pylist() == ["hello"] * 3
        assert cell.telemetry["rss_bytes"].drop_null().to_pylist()
        assert cell.telemetry["client_cpu_s"].drop_null().to_pylist()
        names = {each.name for each in cell.folder.iterdir()}
        assert names == {
            *("cell.json", "requests.parquet", "records.parquet", "telemetry.parquet"),
            *("status.json", "server.log", "driver.log"),
        }
        assert "stub server in mode ok" in (cell.folder / "server.log").read_text()
    assert gone(pids)


def test_telemetry_and_records_share_a_clock(folder: Path) -> None:
    run(stub_plan("ok", pause_s=0.1), folder)
    (cell,) = enginebench.load(folder)
    samples, sent = cell.telemetry["t_ns"].to_pylist(), cell.records["sent_ns"].to_pylist()
    assert samples[0] < sent[0] and samples[-1] > sent[-1]


def test_the_listener_hears_everything_in_order(folder: Path) -> None:
    heard: list[str] = []

    class Notes(Silent):
        def run_started(self, plan: Plan, folder: Path) -> None:
            heard.append("run")

        def cell_started(self, cell: Cell) -> None:
            heard.append(cell.id)

        def engine_ready(self, cell: Cell, ready_s: float) -> None:
            heard.append("ready")

        def progress(self, cell: Cell, event: DriveProgress, elapsed_s: float) -> None:
            if heard[-1] != "progress":
                heard.append("progress")

        def cell_finished(self, cell: Cell, status: CellStatus) -> None:
            heard.append(status.state)

        def run_finished(self, folder: Path) -> None:
            heard.append("finished")

    manager = stub_manager(folder.with_suffix(".pids"))
    plan = stub_plan("ok", "exits")
    run_plan(plan, folder, Notes(), command="", settings=QUICK, manager=manager)
    first = ["000-ok", "ready", "progress", "ok"]
    assert heard == ["run", *first, "001-exits", "failed", "finished"]


def test_servers_are_reused_between_equal_specs_only(folder: Path, pids: Path) -> None:
    run(stub_plan("ok", "ok", "refuses"), folder, reuse_servers=True)
    first, second, third = enginebench.load(folder)
    assert first.status.ready_s is not None and second.status.ready_s is None
    assert third.status.ready_s is not None
    assert "stub server" not in (second.folder / "server.log").read_text()
    assert "post 4" in (second.folder / "server.log").read_text()
    assert second.telemetry["rss_bytes"].drop_null().to_pylist()
    assert gone(pids)


def test_a_server_is_pinned_and_the_driver_gets_the_other_cores(folder: Path, pids: Path) -> None:
    usable = os.sched_getaffinity(0)
    seen: dict[int, set[int]] = {}

    class Look(Silent):
        def progress(self, cell: Cell, event: DriveProgress, elapsed_s: float) -> None:
            for pid in map(int, pids.read_text().split()):
                if alive(pid):
                    seen[pid] = set(psutil.Process(pid).cpu_affinity())

    plan = stub_plan("ok", pause_s=0.2, hardware=Hardware(cpu_threads=1))
    run_plan(plan, folder, Look(), command="", settings=QUICK, manager=stub_manager(pids))
    server, worker, driver = map(int, pids.read_text().split())
    assert len(seen[server]) == 1 and seen[worker] == seen[server]
    assert seen[driver] == (usable - seen[server] or usable)


# ---------------------------------------------------------------- what goes wrong in a cell


@pytest.mark.parametrize(
    ("mode", "error", "tail", "code", "records"),
    [
        ("dies", "ended with code 3 while it served", "boom", 3, 1),
        ("killed", "was killed by SIGKILL while it served", "post 2", -9, 1),
        ("hangs", "produced no token for 1 s", "post 1", None, 0),
        ("exits", "ended with code 7 before it was ready", "no memory left", None, 0),
        ("refuses", "all 3 requests failed; the first: status 500", "post 3", None, 3),
    ],
)
def test_a_failing_engine_fails_its_cell_and_no_other(
    folder: Path, pids: Path, mode: str, error: str, tail: str, code: int | None, records: int
) -> None:
    outcome = run(stub_plan(mode, "ok"), folder)
    assert (outcome.ok, outcome.failed) == (1, 1)
    failed, well = enginebench.load(folder)
    assert failed.status.state == "failed" and well.status.state == "ok"
    assert error in (failed.status.error or "")
    assert tail in failed.status.log_tail
    assert failed.status.engine_exit_code == code
    assert failed.records.num_rows >= records
    assert gone(pids)


def test_an_engine_that_never_gets_ready_is_given_up(folder: Path, pids: Path) -> None:
    outcome = run(stub_plan("never_ready"), folder, startup_timeout_s=0.5)
    (cell,) = enginebench.load(folder)
    assert outcome.failed == 1
    assert "was not healthy after 0.5 s" in (cell.status.error or "")
    assert "mode never_ready" in cell.status.log_tail
    assert gone(pids)


@pytest.mark.parametrize(
    ("driver", "error"),
    [
        ("fails", "the load driver ended with code 1; its log ends with:\nthe stub driver cannot"),
        ("garbage", "the load driver wrote 'not an event'"),
        ("silent", "the load driver said nothing for 1 s"),
        ("bad_records", "holds lines that are no records"),
    ],
)
def test_a_failing_driver_fails_the_cell(folder: Path, pids: Path, driver: str, error: str) -> None:
    assert run(stub_plan("ok"), folder, driver=driver).failed == 1
    (cell,) = enginebench.load(folder)
    assert error in (cell.status.error or "")
    assert cell.records.num_rows == 0
    assert gone(pids)


# ---------------------------------------------------------------- what is wrong from the start


def test_an_existing_folder_is_refused(folder: Path) -> None:
    folder.mkdir()
    with pytest.raises(UsageError, match="exists already"):
        run(stub_plan("ok"), folder)
    assert not list(folder.iterdir())


def test_unknown_engines_and_hardware_are_refused_before_anything_is_written(folder: Path) -> None:
    plan = stub_plan("ok")
    (cell,) = plan.cells
    other = replace(plan, cells=(replace(cell, spec=replace(cell.spec, engine="stup")),))
    with pytest.raises(UnknownNameError, match="did you mean stub"):
        run(other, folder)
    with pytest.raises(UsageError, match="asks for cpu:5000"):
        run(stub_plan("ok", hardware=Hardware(cpu_threads=5000)), folder)
    assert not folder.exists()


# ---------------------------------------------------------------- ends, and going on


def background(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The stub bench as a harness of its own; returns when its second request is on record."""
    process = subprocess.Popen(
        [sys.executable, stub_bench.__file__, arguments[0], str(folder), *arguments[1:]],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    records = folder / "cells/001-ok/records.jsonl"
    assert until(lambda: records.exists() and records.read_text().count("\n") >= 2)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_end_from_outside_leaves_no_process_and_can_be_resumed(
    folder: Path, pids: Path, number: signal.Signals
) -> None:
    harness = background(folder, "run", "ok", "ok")
    harness.send_signal(number)
    harness.communicate(timeout=10)
    assert harness.returncode != 0
    assert gone(pids)

    first, second = enginebench.load(folder)
    assert [first.status.state, second.status.state] == ["ok", "pending"]
    assert second.records.num_rows >= 2
    if number is signal.SIGINT:
        assert not (second.folder / "job.json").exists()
    sealed = (first.folder / "records.parquet").stat().st_mtime_ns

    outcome = resume(folder, Silent(), manager=stub_manager(pids))
    assert (outcome.ok, outcome.failed) == (2, 0)
    assert [each.records.num_rows for each in enginebench.load(folder)] == [3, 3]
    assert (first.folder / "records.parquet").stat().st_mtime_ns == sealed


def test_a_second_harness_cannot_resume_what_runs(folder: Path, pids: Path) -> None:
    harness = background(folder, "run", "ok", "ok")
    with pytest.raises(UsageError, match="is being measured by another process"):
        resume(folder, Silent(), manager=stub_manager(pids))
    assert "ok=2, failed=0" in harness.communicate(timeout=20)[0]


def test_failed_cells_are_repeated_on_request(folder: Path, pids: Path) -> None:
    run(stub_plan("ok"), folder, driver="fails")
    assert resume(folder, Silent(), manager=stub_manager(pids)).failed == 1
    again = resume(folder, Silent(), retry_failed=True, manager=stub_manager(pids))
    assert (again.ok, again.failed) == (1, 0)


def test_a_run_is_not_resumed_under_other_conditions(
    folder: Path, pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stub_plan("ok"), folder)
    versions = RunFolder.open(folder).versions
    monkeypatch.setattr(
        "enginebench.execute.package_versions", lambda: {**versions, "numpy": "0.1"}
    )
    with pytest.raises(UsageError, match=r"numpy was \S+, is 0\.1"):
        resume(folder, Silent(), manager=stub_manager(pids))


def test_a_full_disk_ends_the_run_and_keeps_what_is_sealed(
    folder: Path, pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = False

    class Fill(Silent):
        def cell_finished(self, cell: Cell, status: CellStatus) -> None:
            nonlocal full
            full = True

    def sync(descriptor: int) -> None:
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("enginebench.atomic.os.fsync", sync)
    manager = stub_manager(pids)
    with pytest.raises(StoreError, match=r"cannot write .*No space left on device; free some"):
        run_plan(stub_plan("ok", "ok"), folder, Fill(), command="", settings=QUICK, manager=manager)
    full = False
    assert [each.status.state for each in enginebench.load(folder)] == ["ok", "pending"]
    assert resume(folder, Silent(), manager=manager).ok == 2
    assert gone(pids)


# ---------------------------------------------------------------- searches


class Doubling:
    """Adds a cell of twice the users until there are 4, as a plugin's Searcher would."""

    @hookimpl(tryfirst=True)
    def enginebench_searcher(self) -> Doubling:
        return self

    def next_step(
        self, search: Search, cells: Sequence[CellResult], spent_s: float
    ) -> More | Found:
        assert search.first is not None
        assert all(cell.status.state == "ok" and cell.records.num_rows == 3 for cell in cells)
        if len(cells) == 3:
            return Found(search.id, True, "4 users", held=cells[-1].cell.load)
        return More(((search.first, Load(users=2 ** len(cells))),))


def searching_plan(pause_s: float = 0.0) -> tuple[Plan, Cell]:
    planned = stub_plan("ok", pause_s=pause_s)
    first = replace(planned.cells[0], search="s")
    return replace(planned, searches=(Search("s", "slo", 60.0, 0.9, first),)), first


def test_a_search_adds_cells_until_it_has_found_and_shares_a_server(
    folder: Path, pids: Path
) -> None:
    manager = stub_manager(pids)
    manager.add(Doubling(), Origin("doubling", "test", "1"))
    planned, _ = searching_plan()
    run_plan(planned, folder, Silent(), command="", settings=QUICK, manager=manager)
    cells = list(enginebench.load(folder))
    assert [str(result.cell.load) for result in cells] == ["c1", "c1", "c2", "c4"]
    assert [result.cell.search for result in cells] == [None, "s", "s", "s"]
    assert [result.cell.index for result in cells] == [0, 1, 2, 3]
    assert len({result.cell.seed for result in cells[1:]}) == 3
    assert [result.status.ready_s is None for result in cells] == [False, False, True, True]
    assert cells[1].cell.repeat == 1  # a cell like it was planned
    assert RunFolder.open(folder).found["s"].held == Load(users=4)
    assert gone(pids)


def test_a_search_that_was_killed_goes_on_where_it_stopped(folder: Path, pids: Path) -> None:
    manager = stub_manager(pids)
    manager.add(Doubling(), Origin("doubling", "test", "1"))
    planned, _ = searching_plan()

    class Stops(Silent):
        def cell_started(self, cell: Cell) -> None:
            if cell.index == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(planned, folder, Stops(), command="", settings=QUICK, manager=manager)
    run = RunFolder.open(folder)
    assert len(run.plan.cells) == 3 and [c.index for c in run.unsealed()] == [2]
    assert run.found == {} and len(run.unfinished) == 1
    outcome = resume(folder, Silent(), manager=manager)
    assert (outcome.ok, outcome.failed) == (4, 0)
    assert [str(each.cell.load) for each in enginebench.load(folder)] == ["c1", "c1", "c2", "c4"]
    assert RunFolder.open(folder).unfinished == []
