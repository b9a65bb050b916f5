"""Runs the load driver of `enginebench.drive` against a server, and watches both.

    done = drive(command, job, server, folder=cell_folder, ...)

The driver is a process of its own under the guard. When the server ends or produces no token for
too long, the driver is stopped (it writes what it has) and an EngineError raised; when the driver
fails, a DriverError. Knows nothing of plans or Runs.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from enginebench.drive import DriveDone, DriveEvent, DriveProgress
from enginebench.errors import DriverError, EngineError
from enginebench.process import GuardedProcess, NotStarted, describe_exit, log_tail, start
from enginebench.server import Server

__all__ = ["drive"]

_POLL_S = 0.25
_DECODER: msgspec.json.Decoder[DriveEvent] = msgspec.json.Decoder(DriveEvent)


def drive(
    command: Sequence[str],
    server: Server,
    *,
    log: Path,
    stall_timeout_s: float,
    grace_s: float,
    on_start: Callable[[int], None],
    on_progress: Callable[[DriveProgress, float], None],
    cores: Sequence[int] = (),
) -> DriveDone:
    """Run `command` (the path of its job included) to its end."""
    try:
        process = start(command, log=log, stdout=subprocess.PIPE, cores=cores, grace_s=grace_s)
    except NotStarted as error:
        raise DriverError(f"the load driver: {error}") from error
    with process:
        on_start(process.pid)
        return _Watch(process, server, log, stall_timeout_s, on_progress).until_done()


class _Watch:
    """Follows one driver's events."""

    def __init__(
        self,
        process: GuardedProcess,
        server: Server,
        log: Path,
        stall_timeout_s: float,
        on_progress: Callable[[DriveProgress, float], None],
    ) -> None:
        self.process, self.server, self.log = process, server, log
        self.stall_timeout_s, self.on_progress = stall_timeout_s, on_progress
        self.started = self.last_event = self.last_gain = time.monotonic()
        self.last: DriveProgress | None = None
        self.done: DriveDone | None = None
        self.unread = b""

    def until_done(self) -> DriveDone:
        assert self.process.stdout is not None
        output, ended = self.process.stdout.fileno(), self.process.fileno()
        watched = [output, ended]
        while output in watched:
            readable = select.select(watched, [], [], _POLL_S)[0]
            if output in readable and not self._take_in(os.read(output, 1 << 16)):
                watched.remove(output)
            elif ended in readable and output not in readable:
                break  # it ended, and somebody else still holds its output
            self.server.check()
            self._check_progress()
        return self._result()

    def _take_in(self, data: bytes) -> bool:
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            self._event(_decode(line))
        return bool(data)

    def _event(self, event: DriveEvent) -> None:
        now = self.last_event = time.monotonic()
        if isinstance(event, DriveDone):
            self.done = event
            return
        before = self.last
        if before is None or (event.tokens, event.requests) != (before.tokens, before.requests):
            self.last_gain = now
        self.last = event
        self.on_progress(event, now - self.started)

    def _check_progress(self) -> None:
        now = time.monotonic()
        if now - self.last_event > self.stall_timeout_s:
            raise DriverError(
                f"the load driver said nothing for {self.stall_timeout_s:g} s"
                + self._driver_words()
            )
        if self.done is None and now - self.last_gain > self.stall_timeout_s:
            finished = self.last.requests if self.last else 0
            raise EngineError(
                f"the engine produced no token for {self.stall_timeout_s:g} s "
                f"({finished} requests were finished)",
                log_tail(self.server.log),
            )

    def _result(self) -> DriveDone:
        code = self.process.wait(_POLL_S)
        while code is None:
            self._check_progress()
            code = self.process.wait(_POLL_S)
        self.server.check()
        if code != 0:
            raise DriverError(f"the load driver {describe_exit(code)}" + self._driver_words())
        if self.done is None:
            raise DriverError("the load driver ended without its last line" + self._driver_words())
        return self.done

    def _driver_words(self) -> str:
        words = log_tail(self.log, lines=5).strip()
        return f"; its log ends with:\n{words}" if words else f"; {self.log} is empty"


def _decode(line: bytes) -> DriveEvent:
    try:
        return _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        shown = line[:200].decode(errors="replace")
        raise DriverError(f"the load driver wrote {shown!r}, which is no event: {error}") from error
