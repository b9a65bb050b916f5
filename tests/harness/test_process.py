"""Guarded processes as the harness sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from enginebench.errors import EngineError
from enginebench.process import NotStarted, describe_exit, log_tail, start


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "process.log"


def test_a_process_runs_until_it_is_stopped(log: Path) -> None:
    with start(["sleep", "1000"], log=log) as process:
        assert psutil.Process(process.pid).name() == "sleep"
        assert process.exit_code is None
        assert process.wait(0.05) is None
        assert process.stop() == -signal.SIGTERM
        assert process.stop() == process.exit_code == -signal.SIGTERM
    assert not psutil.pid_exists(process.pid)


def test_the_exit_code_is_noticed_without_a_call_to_stop(log: Path) -> None:
    with start(["sh", "-c", "exit 4"], log=log) as process:
        assert process.wait(5) == 4
        assert process.exit_code == 4
    assert process.exit_code == 4


def test_leaving_by_an_error_stops_the_process(log: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start(["sleep", "1000"], log=log) as process:
        raise KeyboardInterrupt
    assert not psutil.pid_exists(process.pid)


def test_a_killed_guard_takes_the_command_with_it(log: Path) -> None:
    with start(["sleep", "1000"], log=log) as process:
        psutil.Process(process.pid).parent().kill()
        assert process.wait(5) == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while psutil.pid_exists(process.pid):
        status = psutil.Process(process.pid).status()
        if status == psutil.STATUS_ZOMBIE:  # of an init that does not collect
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_output_goes_to_the_log_or_to_a_pipe(log: Path) -> None:
    log.write_text("before\n")
    with start(["sh", "-c", "echo out; echo err >&2"], log=log) as process:
        process.wait(5)
    assert sorted(log.read_text().split()) == ["before", "err", "out"]
    with start(["sh", "-c", "echo out"], log=log, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"out\n"  # ends with the command, not with its guard


def test_environment_and_cores_reach_the_command(log: Path) -> None:
    core = max(os.sched_getaffinity(0))
    script = "import os; print(os.environ['NAME'], os.sched_getaffinity(0))"
    argv = [sys.executable, "-I", "-S", "-c", script]
    with start(argv, log=log, env={"NAME": "value"}, cores=[core]) as process:
        assert process.wait(5) == 0
    assert log.read_text() == f"value {{{core}}}\n"
    assert len(os.sched_getaffinity(0)) == os.cpu_count() or core in os.sched_getaffinity(0)


def test_what_cannot_start_is_an_error_that_names_it(log: Path) -> None:
    with pytest.raises(NotStarted, match=r"cannot start nonesuch: .*No such file"):
        start(["nonesuch"], log=log)


def test_no_descriptor_is_left_open(log: Path) -> None:
    def once() -> int:
        with start(["true"], log=log, stdout=subprocess.PIPE) as process:
            process.wait(5)
        with pytest.raises(NotStarted):
            start(["nonesuch"], log=log)
        return len(os.listdir("/proc/self/fd"))

    assert once() == once()


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with code 0"), (-9, "was killed by SIGKILL"), (-250, "was killed by signal 250")],
)
def test_exit_codes_are_described(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_log_tails_are_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == ""
    log.write_bytes(b"x" * 100_000 + b"\nlast \xff line\n")
    assert log_tail(log, lines=1) == "last \ufffd line"
    assert len(log_tail(log)) < 9000


def test_a_process_that_does_not_end_is_an_error(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that is stopped stands for one that waits for a process stuck in the kernel."""
    monkeypatch.setattr("enginebench.process._GUARD_OVERHEAD_S", 0.0)
    with start(["sleep", "1000"], log=log, grace_s=0.1) as process:
        guarding = psutil.Process(process.pid).parent()
        guarding.suspend()
        with pytest.raises(EngineError, match="does not end, not even by SIGKILL"):
            process.stop()
        guarding.resume()
        monkeypatch.setattr("enginebench.process._GUARD_OVERHEAD_S", 10.0)
        assert process.stop() == -signal.SIGTERM
