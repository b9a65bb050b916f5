"""The master of several load workers, in the place of the one driver; see `load_worker`.

    done = Fleet(job, tell).conduct()

By locust's distributed mode (ZeroMQ): waits for the workers, looks at their clocks, gives each its
share, lets all begin measuring at one moment, and writes their rows, by its own clock, as one
driver would have. Workers of this machine are started here; others join by `bench worker --join`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("LOCUST_SKIP_MONKEY_PATCH", "1")

import gevent
import msgspec
from locust.env import Environment

from enginebench.drive import DriveDone, DriveJob, DriveProgress
from enginebench.types import Request, RequestRecord
from enginebench_workloads.load_worker import boot_id
from enginebench_workloads.shares import Share, as_one, on_master_clock, shares

__all__ = ["Fleet"]

LOOKS = 25
PATIENCE_S = 120.0
POLL_S = 0.05
TELL_EVERY_S = 0.5
HEAD_START_NS = 100_000_000
"""How long before all begin the word to go is sent."""


class _Member:
    """What is known of one worker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.boot: str | None = None
        self.share: Share | None = None
        self.looks: list[tuple[int, int]] = []  # (round trip, worker ahead by), ns
        self.warm = False
        self.last = DriveProgress("warmup", 0, 0, 0)
        self.done: DriveDone | None = None

    @property
    def ahead_ns(self) -> int:
        """By the look with the shortest round trip; its half is how far this may be off. On this
        machine there is one clock, unless the worker is in a clock namespace, which that shows.
        """
        round_trip_ns, ahead_ns = min(self.looks)
        is_one_clock = bool(self.boot) and self.boot == boot_id() and abs(ahead_ns) < round_trip_ns
        return 0 if is_one_clock else ahead_ns


class Fleet:
    """Raises SystemExit, with the reason, when a worker does not come, breaks or is lost."""

    def __init__(self, job: DriveJob, tell: Callable[[DriveProgress | DriveDone], None]) -> None:
        self._job, self._tell = job, tell
        self._members: dict[str, _Member] = {}
        self._wanted = job.load_workers + job.remote_workers
        host, _, port = (job.listen or "127.0.0.1:0").rpartition(":")
        self._host = "127.0.0.1" if host in ("0.0.0.0", "*", "") else host
        self._runner: Any = Environment(user_classes=[]).create_master_runner(host, int(port))
        for name in ("hello", "seen", "rows", "told", "warm", "done", "broken"):
            self._runner.register_message(name, getattr(self, "_on_" + name))
        self._sink = Path(job.records_path).open("ab")
        self._told_s, self._broken = 0.0, ""

    def stop(self) -> None:
        """Send nothing new: what is under way is recorded as stopped."""
        self._runner.send_message("stop", {})

    def conduct(self) -> DriveDone:
        """From the first worker that joins to the last that is done."""
        local = [self._start() for _ in range(self._job.load_workers)]
        try:
            self._until(lambda: sum(m.boot is not None for m in self._all) >= self._wanted, local)
            self._look_at_clocks(local)
            working = self._hand_out()
            self._until(lambda: all(m.warm or m.done for m in working), local)
            self._begin(working)
            self._until(lambda: all(m.done for m in working), local, patient=True)
            ends = [(m.done, m.ahead_ns) for m in working if m.done is not None]
            return as_one(ends, closed_loop=self._job.load.users is not None)
        finally:
            self._runner.quit()
            self._sink.close()
            for process in local:
                process.terminate()
                process.wait()

    @property
    def _all(self) -> Sequence[_Member]:
        return list(self._members.values())

    def _start(self) -> subprocess.Popen[bytes]:
        where = f"{self._host}:{self._runner.server.port}"
        command = [sys.executable, "-m", "enginebench_workloads.load_worker", where]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def _until(
        self,
        condition: Callable[[], bool],
        local: Sequence[subprocess.Popen[bytes]],
        *,
        patient: bool = False,
    ) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            gevent.sleep(POLL_S)
            self._show()
            if self._broken:
                sys.exit(f"a load worker failed: {self._broken}")
            lost = any(m.done is None and self._is_missing(m.name) for m in self._all)
            if lost or any(process.poll() is not None for process in local):
                sys.exit("a load worker was lost before it was done")
            if not patient and time.monotonic() > give_up_s:
                came = sum(m.boot is not None for m in self._all)
                sys.exit(f"{came} of {self._wanted} load workers were ready in {PATIENCE_S:g} s")

    def _is_missing(self, name: str) -> bool:
        return name not in self._runner.clients or self._runner.clients[name].state == "missing"

    def _look_at_clocks(self, local: Sequence[subprocess.Popen[bytes]]) -> None:
        for count in range(1, LOOKS + 1):
            for member in self._all:
                self._send("look", {"sent_ns": time.monotonic_ns()}, member)
            self._until(lambda least=count: all(len(m.looks) >= least for m in self._all), local)  # type: ignore[misc]
        for number, member in enumerate(self._all, 1):
            off = f"ahead by {member.ahead_ns} ns, within {min(member.looks)[0] // 2} ns"
            print(f"worker {number}: clock {off}", file=sys.stderr, flush=True)

    def _hand_out(self) -> list[_Member]:
        decode = msgspec.json.Decoder(Request).decode
        lines = Path(self._job.requests_path).read_bytes().splitlines()
        given = shares(self._job, [decode(line) for line in lines if line], len(self._members))
        working = list(self._all[: len(given)])
        for member, share in zip(working, given, strict=True):
            member.share = share
            lines = [msgspec.json.encode(request) for request in share.requests]
            data = {"job": msgspec.json.encode(share.job), "requests": b"\n".join(lines)}
            self._send("share", data, member)
        return working

    def _begin(self, working: Sequence[_Member]) -> None:
        at_ns = time.monotonic_ns() + HEAD_START_NS
        for member in working:
            self._send("go", {"at_ns": at_ns + member.ahead_ns}, member)

    def _send(self, kind: str, data: dict[str, Any], member: _Member) -> None:
        self._runner.send_message(kind, data, client_id=member.name)

    def _show(self) -> None:
        if time.monotonic() - self._told_s < TELL_EVERY_S:
            return
        self._told_s = time.monotonic()
        last = [member.last for member in self._all]
        phases = {each.phase for each in last}
        self._tell(
            DriveProgress(
                "warmup" if "warmup" in phases else "drain" if phases == {"drain"} else "measure",
                sum(each.requests for each in last),
                sum(each.tokens for each in last),
                sum(each.errors for each in last),
            )
        )

    # ---------------------------------------------------------------- what workers say

    def _member(self, msg: Any) -> _Member:
        return self._members.setdefault(msg.node_id, _Member(msg.node_id))

    def _on_hello(self, environment: Environment, msg: Any) -> None:
        self._member(msg).boot = msg.data["boot"]

    def _on_seen(self, environment: Environment, msg: Any) -> None:
        sent_ns, now_ns = msg.data["sent_ns"], time.monotonic_ns()
        ahead_ns = msg.data["worker_ns"] - (sent_ns + now_ns) // 2
        self._member(msg).looks.append((now_ns - sent_ns, ahead_ns))

    def _on_rows(self, environment: Environment, msg: Any) -> None:
        member = self._member(msg)
        assert member.share is not None, "rows come from those that have a share"
        closed_loop, first = self._job.load.users is not None, member.share.first_user
        for line in msg.data["lines"].splitlines():
            made = msgspec.json.decode(line, type=RequestRecord)
            ours = on_master_clock(made, member.ahead_ns, first, closed_loop=closed_loop)
            self._sink.write(msgspec.json.encode(ours) + b"\n")
        self._sink.flush()

    def _on_told(self, environment: Environment, msg: Any) -> None:
        self._member(msg).last = msgspec.json.decode(msg.data["event"], type=DriveProgress)

    def _on_warm(self, environment: Environment, msg: Any) -> None:
        self._member(msg).warm = True

    def _on_done(self, environment: Environment, msg: Any) -> None:
        self._member(msg).done = msgspec.json.decode(msg.data["event"], type=DriveDone)

    def _on_broken(self, environment: Environment, msg: Any) -> None:
        self._broken = str(msg.data["why"])
