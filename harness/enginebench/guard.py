"""The guard: runs one command, and leaves no process of it behind, whatever becomes of its owner.

    python -I -S guard.py STATUS_FD GRACE_S CORES -- argv...

The owner holds the other end of the guard's stdin. When that pipe closes (stop, crash, SIGKILL of
the owner), or on SIGTERM, everything the command started gets SIGTERM and, after GRACE_S seconds,
SIGKILL; likewise what it left running when it ended by itself. CORES is a list like `0,2` to pin
the command to, or `-`. What happens is written to STATUS_FD, a line each: `started PID`, `failed
REASON`, `exited CODE` (negative: the signal).

Run by file path, standard library only, so that it starts in milliseconds. The command runs in a
session of its own. On Linux the guard adopts what the command orphans, so that daemons are found
too, and the command dies with a guard that is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

_PARENT_DEATH_SIGNAL, _CHILD_SUBREAPER = 1, 36  # options of prctl(2)
_DEFAULTS = ("SIGCHLD", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGPIPE", "SIGXFSZ")
_POLL_S = 0.02


class Guard:
    """One command and everything that it started."""

    def __init__(self, status_fd: int, grace_s: float) -> None:
        self.status_fd, self.grace_s = status_fd, grace_s
        self.child = 0
        self.code: int | None = None
        self.wake, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _prctl(_CHILD_SUBREAPER, 1)

    def start(self, argv: list[str], cores: str) -> str:
        """Fork and execute; the reason if that failed. The pipe closes when exec succeeded."""
        reader, writer = os.pipe()
        guard = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            try:
                _become(argv, cores, guard, self.status_fd)
            except (OSError, ValueError) as error:
                os.write(writer, f"{argv[0]}: {error}".encode())
            finally:
                os._exit(127)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            return pipe.read().decode(errors="replace")

    def wait(self) -> None:
        """Until the command ended, or is to be ended."""
        while self.code is None:
            readable, _, _ = select.select([0, self.wake], [], [])
            if 0 in readable and not os.read(0, 4096):
                return
            if self.wake in readable and {signal.SIGTERM, signal.SIGHUP} & {
                *os.read(self.wake, 99)
            }:
                return
            self.reap()

    def end(self) -> None:
        """SIGTERM, a grace time, SIGKILL, until nothing is left."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + self.grace_s
        while self.reap():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(_POLL_S)

    def reap(self) -> bool:
        """Collect what has ended, the command's code among it; whether something is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return _group_lives(self.child)
            if pid == 0:
                return True
            if pid == self.child:
                self.code = os.waitstatus_to_exitcode(status)
                self.say(f"exited {self.code}")

    def signal(self, number: int) -> None:
        """To the command's process group, and to descendants that left it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child, number)
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) != self.child:
                    os.kill(pid, number)

    def say(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # the owner is gone: nobody to tell
            os.write(self.status_fd, line.replace("\n", " ").encode() + b"\n")


def main(arguments: list[str]) -> int:
    status_fd, grace_s, cores, _, *argv = arguments
    guard = Guard(int(status_fd), float(grace_s))
    if reason := guard.start(argv, cores):
        guard.say(f"failed {reason}")
        return 1
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that stdout ends with the command
    guard.say(f"started {guard.child}")
    try:
        guard.wait()
    finally:
        guard.end()
    return 0


def _become(argv: list[str], cores: str, guard: int, status_fd: int) -> None:
    os.setsid()
    _prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != guard:  # it died before the line above
        return
    signal.set_wakeup_fd(-1)
    for name in _DEFAULTS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if cores != "-":
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.close(status_fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvp(argv[0], argv)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _descendants(root: int) -> list[int]:
    """All below `root`, by /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    for name in filter(str.isdigit, names):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found[1:]


def _group_lives(group: int) -> bool:
    """Whether somebody is left in the process group (where orphans are not adopted)."""
    if sys.platform == "linux":
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
