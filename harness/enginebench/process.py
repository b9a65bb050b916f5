"""A child process that cannot outlive us: started under the guard, watched, stopped with grace.

    with start(["python", "-m", "http.server", "8000"], log=Path("server.log")) as process:
        process.pid, process.exit_code

Knows nothing of servers, ports or drivers. `guard` says what happens at the end.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from enginebench import guard
from enginebench.errors import EngineError

__all__ = ["GuardedProcess", "NotStarted", "describe_exit", "log_head", "log_tail", "start"]

_GUARD_OVERHEAD_S = 20.0  # what the guard may need beyond the grace time on a busy machine


class NotStarted(Exception):
    """The command could not be executed; the message says why."""


class GuardedProcess:
    """A command that runs under a guard. `pid` is the command's own."""

    def __init__(self, guarding: subprocess.Popen[bytes], status_fd: int, grace_s: float) -> None:
        self._guarding, self._status_fd, self._grace_s = guarding, status_fd, grace_s
        self._unread = b""
        self._code: int | None = None
        self._at_end = False
        self._group: int | None = None
        self.pid = self._group = self._await_start()

    @property
    def stdout(self) -> IO[bytes] | None:
        """The command's output, if it was started with `stdout=subprocess.PIPE`."""
        return self._guarding.stdout

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, negative for a signal; None while it runs."""
        while self._code is None and not self._at_end and _readable(self._status_fd, 0):
            self._read()
        return self._code

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the command's end, at most `timeout_s`; as `exit_code`."""
        if self.exit_code is None and not self._at_end:
            _readable(self._status_fd, timeout_s)
        return self.exit_code

    def fileno(self) -> int:
        """Becomes readable when the command ends (for select)."""
        return self._status_fd

    def stop(self) -> int | None:
        """End the command and everything it started; its exit code. May be called again.

        Raises EngineError if not even SIGKILL helps (a driver that hangs in the kernel).
        """
        assert self._guarding.stdin is not None
        self._guarding.stdin.close()
        try:
            self._guarding.wait(self._grace_s + _GUARD_OVERHEAD_S)
        except subprocess.TimeoutExpired as error:
            raise EngineError(
                f"process {self.pid} does not end, not even by SIGKILL; nothing more can be "
                "measured beside it: end it (a restart may be needed), then resume the run"
            ) from error
        return self.exit_code

    def __enter__(self) -> GuardedProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self.stdout is not None:
            self.stdout.close()
        if self._status_fd >= 0:
            os.close(self._status_fd)
            self._status_fd, self._at_end = -1, True

    def _await_start(self) -> int:
        while b"\n" not in self._unread:
            if not self._read():
                raise NotStarted("its guard ended at once")
        line, _, self._unread = self._unread.partition(b"\n")
        word, _, rest = line.decode(errors="replace").partition(" ")
        if word != "started":
            raise NotStarted(rest)
        return int(rest)

    def _read(self) -> bool:
        """Take in what the guard said; False when it says no more."""
        data = os.read(self._status_fd, 4096)
        self._unread += data
        for line in self._unread.splitlines():
            if line.startswith(b"exited "):
                self._code = int(line.split()[1])
        if not data:
            self._at_end = True
            self._code = self._mourn() if self._code is None else self._code
        return bool(data)

    def _mourn(self) -> int:
        """The guard was killed, and the command with it; end what it had started."""
        if self._group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)
        return -signal.SIGKILL


def start(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cores: Sequence[int] = (),
    stdout: int | None = None,
    grace_s: float = 10.0,
) -> GuardedProcess:
    """Start `argv` in a session of its own; stderr (and stdout, if not piped) are added to `log`.

    `env` replaces the environment, `cores` pins the command. Raises NotStarted.
    """
    reader, writer = os.pipe()
    try:
        with log.open("ab") as file:
            guarding = subprocess.Popen(
                _guarded(argv, writer, grace_s, cores),
                stdin=subprocess.PIPE,
                stdout=file if stdout is None else stdout,
                stderr=file,
                env=None if env is None else dict(env),
                pass_fds=(writer,),
                start_new_session=True,
            )
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return _started(guarding, reader, grace_s, argv)


def _started(
    guarding: subprocess.Popen[bytes], reader: int, grace_s: float, argv: Sequence[str]
) -> GuardedProcess:
    try:
        return GuardedProcess(guarding, reader, grace_s)
    except BaseException as error:
        os.close(reader)
        for pipe in (guarding.stdin, guarding.stdout):
            if pipe is not None:
                pipe.close()
        guarding.wait()
        if isinstance(error, NotStarted):
            raise NotStarted(f"cannot start {argv[0]}: {error}") from error
        raise


def _guarded(
    argv: Sequence[str], status_fd: int, grace_s: float, cores: Sequence[int]
) -> Sequence[str]:
    python = [sys.executable, "-I", "-S", guard.__file__]
    pinned = ",".join(map(str, cores)) or "-"
    return [*python, str(status_fd), str(grace_s), pinned, "--", *argv]


def describe_exit(code: int | None) -> str:
    """`ended with code 3`, `was killed by SIGKILL`."""
    if code is None or code >= 0:
        return f"ended with code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def log_head(path: Path, size: int = 1 << 17) -> str:
    """The first `size` bytes of a log; empty if there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return file.read(size).decode(errors="replace")


def log_tail(path: Path, lines: int = 40, size: int = 8192) -> str:
    """The last lines of a log, at most `size` bytes; empty if there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _readable(descriptor: int, timeout_s: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])
