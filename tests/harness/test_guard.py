"""The guard on its own: whatever its owner does, nothing of its command stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from enginebench import guard

STUBBORN = "trap '' TERM; echo $$ >> {pids}; while :; do sleep 0.05; done"


def begin(*argv: str, grace_s: float = 0.3) -> tuple[subprocess.Popen[bytes], int]:
    """A guard around `argv`, and the reading end of its status pipe."""
    reader, writer = os.pipe()
    command = [sys.executable, "-I", "-S", guard.__file__, str(writer), str(grace_s), "-", "--"]
    process = subprocess.Popen(
        [*command, *argv], stdin=subprocess.PIPE, pass_fds=(writer,), start_new_session=True
    )
    os.close(writer)
    return process, reader


def read_all(reader: int) -> list[str]:
    with os.fdopen(reader) as file:
        return file.read().splitlines()


def close(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None
    process.stdin.close()
    return process.wait(10)


def noted(pids: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 5
    while not pids.exists() or len(pids.read_text().split()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(line) for line in pids.read_text().split()]


def test_the_end_of_the_command_is_told() -> None:
    process, reader = begin("sh", "-c", "exit 5")
    started, exited = read_all(reader)
    assert started.startswith("started ") and exited == "exited 5"
    assert close(process) == 0


def test_a_command_that_cannot_start_is_told() -> None:
    process, reader = begin("/nonesuch/program")
    (line,) = read_all(reader)
    assert line.startswith("failed /nonesuch/program: ") and "No such file" in line
    assert close(process) == 1


def test_closing_the_pipe_ends_the_command() -> None:
    process, reader = begin("sleep", "1000")
    assert close(process) == 0
    assert read_all(reader)[-1] == f"exited {-signal.SIGTERM}"


def test_sigterm_to_the_guard_ends_the_command() -> None:
    process, reader = begin("sleep", "1000")
    assert os.read(reader, 99).startswith(b"started ")
    process.terminate()
    assert read_all(reader) == [f"exited {-signal.SIGTERM}"]
    assert close(process) == 0


def test_what_ignores_sigterm_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    script = STUBBORN.format(pids=tmp_path / "pids")
    process, reader = begin("sh", "-c", script, grace_s=0.3)
    noted(tmp_path / "pids", 1)
    start = time.monotonic()
    close(process)
    assert time.monotonic() - start >= 0.3
    assert read_all(reader)[-1] == f"exited {-signal.SIGKILL}"


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
@pytest.mark.parametrize("ends_first", [True, False])
def test_daemons_in_sessions_of_their_own_end_too(tmp_path: Path, ends_first: bool) -> None:
    pids = tmp_path / "pids"
    daemon = tmp_path / "daemon.sh"
    daemon.write_text(STUBBORN.format(pids=pids))
    wait = f"until [ $(wc -l < {pids}) = 2 ]; do sleep 0.02; done" if ends_first else "sleep 1000"
    pids.touch()
    process, reader = begin("sh", "-c", f"setsid sh {daemon} & setsid sh {daemon} & {wait}\n:")
    daemons = noted(pids, 2)
    close(process)
    os.close(reader)
    assert not any(psutil.pid_exists(pid) for pid in daemons)


def test_the_command_gets_default_signals_and_no_stdin() -> None:
    """What Python ignores (SIGPIPE, SIGXFSZ), the guard (SIGINT), and a shell for what it starts
    in the background (SIGINT, SIGQUIT), is not inherited.
    """
    script = "grep -E 'SigIgn|SigBlk' /proc/self/status; cat"
    reader, writer = os.pipe()
    command = [sys.executable, "-I", "-S", guard.__file__, str(writer), "1", "-", "--"]
    result = subprocess.Popen(
        [*command, "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(writer,),
    )
    os.close(writer)
    assert result.stdout is not None
    with result.stdout:
        ignored = result.stdout.read().decode()
    assert [int(line.split()[1], 16) for line in ignored.splitlines()] == [0, 0]
    assert read_all(reader)[-1] == "exited 0"
    assert close(result) == 0


def test_the_guard_needs_the_standard_library_only() -> None:
    """`-S` leaves out site-packages; that it starts at all is the proof. It must be quick, too."""
    command = [sys.executable, "-I", "-S", "-X", "importtime", guard.__file__]
    shown = subprocess.run(command, capture_output=True, text=True).stderr
    imported = {line.rpartition("|")[2].strip() for line in shown.splitlines()}
    assert not imported & {"enginebench", "subprocess", "asyncio", "logging", "threading"}
