"""The load driver: `python -m enginebench_workloads.driver JOB.json` (see `enginebench.drive`).

Locust keeps the users; each user owns its socket and its clock, because locust's own clients stop
their clock at the headers and read streams in blocks. Nothing but sending and stamping happens
while a request is under way; its meaning is read when it is over. This is the only module that
imports locust, and it runs in a process of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, cast

os.environ.setdefault("LOCUST_SKIP_MONKEY_PATCH", "1")

import gevent
import gevent.event
import gevent.pool
import msgspec
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from enginebench.drive import DriveDone, DriveJob, DriveProgress
from enginebench.types import Request, RequestRecord
from enginebench_workloads.schedule import Phase, Schedule, Window
from enginebench_workloads.sse import Answer, read_answer
from enginebench_workloads.stream import (
    Address,
    Connection,
    Exchange,
    HttpError,
    socket_factory,
)
from enginebench_workloads.wire import EXTENSIONS, encode

__all__ = ["Driver", "main"]

PROGRESS_EVERY_S = 0.5
LAG_PROBE_S = 0.02


class Driver:
    """One cell: drives the endpoint, appends records, counts."""

    def __init__(self, job: DriveJob, requests: Sequence[Request], sink: IO[bytes]) -> None:
        self.job = job
        self.address = Address.parse(job.base_url)
        self.schedule = Schedule(requests, job.budget)
        self.window = Window(users=job.load.users or 1)
        self.phase: Literal["warmup", "measure", "drain"] = "warmup"
        self.max_lag_s = 0.0
        self._requests, self._sink = requests, sink
        self._connect = socket_factory()
        self._done = self._tokens = self._errors = 0
        self._without: set[str] = set()
        self._warm_users = 0
        self._go = gevent.event.Event()

    # ---------------------------------------------------------------- one request

    def send(
        self, connection: Connection, user: int, request: Request, phase: Phase, due_ns: int | None
    ) -> None:
        """Do one request and append its record. A due time in the past counts as queueing."""
        data = encode(request, self.job, self.address, without=self._without)
        exchange, error = Exchange(), None
        scheduled_ns = due_ns if due_ns is not None else time.monotonic_ns()
        try:
            with gevent.Timeout(self.job.request_timeout_s):
                connection.exchange(data, exchange)
        except gevent.Timeout:
            error = f"no complete answer within {self.job.request_timeout_s:g} s"
        except (OSError, HttpError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        except gevent.GreenletExit:
            error = "stopped by the harness"
        if error is not None:
            connection.close()
        exchange.end_ns = exchange.end_ns or time.monotonic_ns()
        answer = read_answer(exchange) if exchange.status is not None else Answer()
        answer.error = error or answer.error
        self._append(_record(user, request, phase, scheduled_ns, exchange, answer))

    def _append(self, record: RequestRecord) -> None:
        self._sink.write(msgspec.json.encode(record) + b"\n")
        self._sink.flush()
        self._done += 1
        self._tokens += sum(record.chunk_tokens)
        self._errors += record.error is not None

    # ---------------------------------------------------------------- closed loop

    def live(self, user: int) -> None:
        """A closed-loop user: warm up, wait for the others, then request upon request."""
        connection = Connection(self.address, self._connect)
        while (request := self.schedule.next_warmup()) is not None:
            self.send(connection, user, request, "warmup", None)
        self._warmed_up()
        sent = False
        while (request := self.schedule.next_measured(at_least_one=not sent)) is not None:
            if not sent:
                gevent.spawn(self.window.user_started)
            sent = True
            self.send(connection, user, request, "measure", None)
        self.window.user_stopped()
        self.phase = "drain"
        connection.close()

    def _warmed_up(self) -> None:
        self._warm_users += 1
        if self._warm_users == self.window.users:
            self._begin_measuring()
        self._go.wait()

    def _begin_measuring(self) -> None:
        self.schedule.start_measuring()
        self.phase = "measure"
        self._go.set()

    # ---------------------------------------------------------------- open loop

    def dispatch(self) -> None:
        """Send every request when it is due, whatever became of the ones before."""
        idle: list[Connection] = []
        self._warm_up_open_loop(idle)
        self._begin_measuring()
        self.window.user_started()
        start_ns, under_way = time.monotonic_ns(), gevent.pool.Group()
        while (request := self.schedule.next_measured()) is not None:
            due_ns = start_ns + int((request.scheduled_s or 0.0) * 1e9)
            gevent.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            under_way.spawn(self._send_on_idle, idle, request, due_ns)
        self.window.user_stopped()
        self.phase = "drain"
        under_way.join()

    def _warm_up_open_loop(self, idle: list[Connection]) -> None:
        while (request := self.schedule.next_warmup()) is not None:
            connection = idle.pop() if idle else Connection(self.address, self._connect)
            self.send(connection, 0, request, "warmup", None)
            idle.append(connection)

    def _send_on_idle(self, idle: list[Connection], request: Request, due_ns: int) -> None:
        connection = idle.pop() if idle else Connection(self.address, self._connect)
        self.send(connection, request.index, request, "measure", due_ns)
        idle.append(connection)

    # ---------------------------------------------------------------- around the requests

    def negotiate(self) -> None:
        """Find out, with short requests, which extensions the server refuses; leave them out."""
        for _ in EXTENSIONS:
            refused = self._refused_extension()
            if refused is None:
                return
            print(f"the server refuses {refused}: left out", file=sys.stderr)
            self._without.add(refused)

    def _refused_extension(self) -> str | None:
        first = self._requests[0]
        probe = Request(first.index, first.prompt, 1, None, first.body)
        exchange, connection = Exchange(), Connection(self.address, self._connect)
        try:
            with gevent.Timeout(self.job.request_timeout_s, False):
                data = encode(probe, self.job, self.address, without=self._without)
                connection.exchange(data, exchange)
        except (OSError, HttpError):
            return None  # the measured requests will tell
        finally:
            connection.close()
        if exchange.status not in (400, 422):
            return None
        message = read_answer(exchange).error or ""
        return next((n for n in EXTENSIONS if n in message and n not in self._without), None)

    def watch(self) -> None:
        """Print progress, and measure how late this process is for its own timers."""
        next_print_s = time.monotonic() + PROGRESS_EVERY_S
        while True:
            before_s = time.monotonic()
            gevent.sleep(LAG_PROBE_S)
            now_s = time.monotonic()
            if self.phase != "warmup":
                self.max_lag_s = max(self.max_lag_s, now_s - before_s - LAG_PROBE_S)
            if now_s >= next_print_s:
                next_print_s = now_s + PROGRESS_EVERY_S
                self.print_progress()

    def print_progress(self) -> None:
        _print(DriveProgress(self.phase, self._done, self._tokens, self._errors))


def _record(
    user: int, request: Request, phase: Phase, due_ns: int, exchange: Exchange, answer: Answer
) -> RequestRecord:
    return RequestRecord(
        request_index=request.index,
        user=user,
        phase=phase,
        scheduled_ns=due_ns,
        sent_ns=exchange.sent_ns or due_ns,
        end_ns=exchange.end_ns,
        chunk_ns=tuple(answer.chunk_ns),
        chunk_tokens=tuple(answer.chunk_tokens),
        token_count_source=answer.token_count_source,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cached_prompt_tokens=answer.cached_prompt_tokens,
        finish_reason=answer.finish_reason,
        http_status=exchange.status,
        error=answer.error,
        text="".join(answer.texts),
    )


def _print(event: DriveProgress | DriveDone) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def _user_class(driver: Driver) -> type[User]:
    """A locust user that lives its whole life in one task, then leaves."""
    numbers = iter(range(driver.window.users))

    class StreamingUser(User):
        @task
        def live(self) -> None:
            if driver.job.load.users is None:
                driver.dispatch()
            else:
                driver.live(next(numbers))
            raise StopUser

    return StreamingUser


def _drive(driver: Driver) -> None:
    environment = Environment(user_classes=[_user_class(driver)])
    runner = environment.create_local_runner()
    users = driver.window.users

    def stop() -> None:
        driver.schedule.stop()
        gevent.spawn(runner.quit)

    gevent.signal_handler(signal.SIGTERM, stop)
    driver.negotiate()
    watcher = gevent.spawn(driver.watch)
    cpu_before_s = time.process_time()
    runner.start(users, spawn_rate=users)
    assert runner.spawning_greenlet is not None
    runner.spawning_greenlet.join()
    runner.user_greenlets.join()
    cpu_s = time.process_time() - cpu_before_s
    runner.quit()
    watcher.kill()
    driver.print_progress()
    start_ns, end_ns = driver.window.bounds
    _print(DriveDone(start_ns, end_ns, cpu_s, driver.max_lag_s))


def _read_requests(path: Path) -> list[Request]:
    decode = msgspec.json.Decoder(Request).decode
    return [decode(line) for line in path.read_bytes().splitlines() if line]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job file named by the only argument."""
    arguments = sys.argv[1:] if argv is None else argv
    job = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=DriveJob)
    requests = _read_requests(Path(job.requests_path))
    with Path(job.records_path).open("ab") as sink:
        _drive(Driver(job, requests, cast(IO[bytes], sink)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
