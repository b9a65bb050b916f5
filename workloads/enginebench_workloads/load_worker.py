"""A load worker: joins a master by locust's distributed mode and drives its share of each job.

    python -m enginebench_workloads.load_worker 127.0.0.1:5557

It answers the master's looks at its clock, takes one share, waits with warm users for the word to
go, and sends its rows while it drives. It ends when the master has no more for it.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

os.environ.setdefault("LOCUST_SKIP_MONKEY_PATCH", "1")

import gevent
import gevent.event
import msgspec
from locust.env import Environment

from enginebench.drive import DriveJob, DriveProgress
from enginebench_workloads.alarm import sleep_until
from enginebench_workloads.cell_driver import CellDriver
from enginebench_workloads.connection import Address
from enginebench_workloads.driver import carry_out
from enginebench_workloads.open_files import allow_many_sockets
from enginebench_workloads.recorder import Recorder
from enginebench_workloads.wire_requests import WireRequests

__all__ = ["join", "main"]


class _Rows:
    """The sink of a recorder: what it writes goes to the master."""

    def __init__(self, send: Any) -> None:
        self._send = send

    def write(self, line: bytes) -> None:
        self._send("rows", {"lines": line})

    def flush(self) -> None:
        """Every line is sent at once."""


class _Worker:
    def __init__(self, runner: Any) -> None:
        self.runner, self.send = runner, runner.send_message
        self.go: gevent.event.AsyncResult[int] = gevent.event.AsyncResult()
        self.driver: CellDriver | None = None
        for name in ("look", "share", "go", "stop"):
            runner.register_message(name, getattr(self, "on_" + name), concurrent=name == "share")

    def on_look(self, environment: Environment, msg: Any) -> None:
        self.send("seen", {"sent_ns": msg.data["sent_ns"], "worker_ns": time.monotonic_ns()})

    def on_go(self, environment: Environment, msg: Any) -> None:
        self.go.set(msg.data["at_ns"])

    def on_stop(self, environment: Environment, msg: Any) -> None:
        if self.driver is not None:
            self.driver.stop()

    def on_share(self, environment: Environment, msg: Any) -> None:
        try:
            self._drive(msg.data)
        except (OSError, ValueError) as error:
            self.send("broken", {"why": f"{type(error).__name__}: {error}"})

    def _drive(self, data: dict[str, Any]) -> None:
        with TemporaryDirectory(prefix="enginebench-worker-") as name:
            path = Path(name) / "requests.jsonl"
            path.write_bytes(data["requests"])
            job = msgspec.json.decode(data["job"], type=DriveJob)
            job = msgspec.structs.replace(job, requests_path=str(path))
            address = Address.parse(job.base_url)
            requests = WireRequests.read(job, address)
        gc.freeze()
        gc.disable()
        recorder = Recorder(cast(Any, _Rows(self.send)))
        self.driver = CellDriver(job, address, requests, recorder, self._tell)
        self.driver.before_measuring = self._wait_for_the_word
        done = carry_out(self.driver, recorder)
        self.send("done", {"event": msgspec.json.encode(done)})

    def _tell(self, event: DriveProgress) -> None:
        self.send("told", {"event": msgspec.json.encode(event)})

    def _wait_for_the_word(self) -> None:
        self.send("warm", {})
        sleep_until(self.go.get())


def join(host: str, port: int) -> None:
    """Work for the master there until it has no more to do. Raises ConnectionError without one."""
    allow_many_sockets()
    runner = Environment(user_classes=[]).create_worker_runner(host, port)
    _Worker(runner)
    runner.send_message("hello", {"boot": boot_id()})
    runner.greenlet.join()


def boot_id() -> str:
    """Equal for processes that share a monotonic clock; empty where the system does not tell."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Join the master named by the only argument."""
    host, _, port = (sys.argv[1:] if argv is None else argv)[0].rpartition(":")
    join(host, int(port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
