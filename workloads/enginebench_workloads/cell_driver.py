"""The users of one cell: sends requests, has records written, counts. Closed loop or open.

Each user owns its socket and its clock, because locust's own clients stop their clock at the
headers and read streams in blocks. Requests are encoded before the start, and answers parsed when
nothing else is to be done: in between, only sending and stamping. Knows no process: `driver` and
`load_worker` run it in theirs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

import gevent
import gevent.event
import gevent.pool

from enginebench.drive import DriveJob, DriveProgress
from enginebench.types import StampedBy
from enginebench_workloads.alarm import Alarm, sleep_until
from enginebench_workloads.connection import Address, Connection
from enginebench_workloads.dialogue import Dialogue
from enginebench_workloads.exchange import Exchange, HttpError
from enginebench_workloads.lag import LagProbe
from enginebench_workloads.link import Link, connect
from enginebench_workloads.recorder import Finished, Recorder, read_in_slices
from enginebench_workloads.schedule import Phase, Schedule, Window
from enginebench_workloads.warm_up import WarmUp
from enginebench_workloads.wire import WireRequest
from enginebench_workloads.wire_requests import WireRequests

__all__ = ["CellDriver"]

PROGRESS_EVERY_S = 0.5


class CellDriver:
    """One cell: drives the endpoint, has records written, counts."""

    def __init__(
        self,
        job: DriveJob,
        address: Address,
        requests: WireRequests,
        recorder: Recorder,
        tell: Callable[[DriveProgress], None],
    ) -> None:
        self.job = job
        self.schedule = Schedule(requests.first, job.budget, requests.turns)
        self.window = Window(users=job.load.users or 1)
        self.phase: Literal["warmup", "measure", "drain"] = "warmup"
        self.warm_up = WarmUp(until_steady=job.budget.warmup_until_steady)
        self.lag = LagProbe(recorder.catch_up)
        self.stamped_by: StampedBy = "kernel"
        self._address, self._requests, self._recorder = address, requests, recorder
        self._tell = tell
        self._under_way: dict[int, Exchange] = {}
        self._warm_users = self._began_ns = 0
        self._go = gevent.event.Event()
        self.before_measuring: Callable[[], None] = _at_once
        self.end_users: Callable[[], None] = _at_once

    # ---------------------------------------------------------------- one request

    def send(
        self,
        connection: Connection,
        user: int,
        request: WireRequest,
        phase: Phase,
        due_ns: int | None = None,
    ) -> Finished:
        """Do one request. A due time in the past counts as queueing; None: it is due now.

        The answer is read at once only if another turn may follow it.
        """
        exchange, error = Exchange(), None
        self._under_way[request.index] = exchange
        scheduled_ns = due_ns if due_ns is not None else time.monotonic_ns()
        try:
            with gevent.Timeout(self.job.request_timeout_s):
                connection.exchange(request.data, exchange)
        except gevent.Timeout:
            error = f"no complete answer within {self.job.request_timeout_s:g} s"
        except (OSError, HttpError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        except gevent.GreenletExit:
            error = "stopped by the harness"
        if error is not None:
            connection.close()
        exchange.end_ns = exchange.end_ns or time.monotonic_ns()
        del self._under_way[request.index]
        followed = error is None and self.schedule.turn_after(request.index) is not None
        answer = read_in_slices(exchange) if followed else None
        finished = Finished(request.index, user, phase, scheduled_ns, exchange, error, answer)
        self._recorder.add(finished)
        if self.job.load.users is None and phase == "measure" and self.window.started == 0:
            self.window.user_started()
        return finished

    def converse(
        self, connection: Connection, user: int, request: WireRequest, due_ns: int | None = None
    ) -> None:
        """Do a measured request and the turns that follow it, as long as the budget lasts."""
        dialogue = Dialogue(request.request)
        while True:
            finished = self.send(connection, user, request, "measure", due_ns)
            turn, answer = self.schedule.turn_after(request.index), finished.answer
            if turn is None or answer is None or answer.error is not None:
                return
            request = self._requests.encode(dialogue.turn("".join(answer.texts), turn.request))
            due_ns = finished.exchange.end_ns + int(turn.request.think_s * 1e9)
            sleep_until(due_ns)
            if not self.schedule.take_turn():
                return

    def _connection(self) -> Connection:
        return Connection(self._connect)

    def _connect(self) -> Link:
        address, wanted = self._address, self.job.stamp_in_kernel
        link = connect(address.host, address.port, tls=address.tls, in_kernel=wanted)
        if not link.in_kernel:
            self.stamped_by = "read"
        return link

    # ---------------------------------------------------------------- closed loop

    def live(self, user: int) -> None:
        """A closed-loop user: warm up, wait for the others, then request upon request."""
        connection = self._connection()
        self._warm_up(connection, user)
        _try_to_open(connection)
        self._warmed_up()
        sent = False
        while (request := self.schedule.next_measured(at_least_one=not sent)) is not None:
            due_ns = self._joined(request)
            if not sent:
                gevent.spawn(self.window.user_started)
            sent = True
            self.converse(connection, user, request, due_ns)
        self.window.user_stopped()
        self.phase = "drain"
        connection.close()

    def _joined(self, request: WireRequest) -> int | None:
        """When a user that joins later has joined; None for all others."""
        if not request.request.think_s:
            return None
        due_ns = self._began_ns + int(request.request.think_s * 1e9)
        sleep_until(due_ns)
        return due_ns

    def _warm_up(self, connection: Connection, user: int) -> None:
        while not self.warm_up.over and (request := self.schedule.next_warmup()) is not None:
            exchange = self.send(connection, user, request, "warmup").exchange
            pieces = len(exchange.body) if exchange.status == 200 else 0
            self.warm_up.note(exchange.end_ns - exchange.sent_ns, pieces)

    def _warmed_up(self) -> None:
        self._warm_users += 1
        if self._warm_users == self.window.users:
            self._begin_measuring()
        self._go.wait()

    def _begin_measuring(self) -> None:
        if self.job.budget.warmup_until_steady:
            print(self.warm_up, file=sys.stderr, flush=True)
        self.before_measuring()
        self.schedule.start_measuring()
        self.lag.forget()
        self.phase = "measure"
        self._began_ns = time.monotonic_ns()
        self._go.set()

    # ---------------------------------------------------------------- open loop

    def dispatch(self) -> None:
        """Send every request when it is due, whatever became of the ones before."""
        idle = [self._connection()]
        _try_to_open(idle[0])
        self._warm_up(idle[0], 0)
        under_way = gevent.pool.Group()
        self._begin_measuring()
        try:
            for request, due_ns in self._due():
                under_way.spawn(self._send_on_idle, idle, request, due_ns)
                if not idle:
                    under_way.spawn(self._add_spare, idle)
            self.window.user_stopped()
            self.phase = "drain"
            under_way.join()
        except gevent.GreenletExit:  # told to stop: what is under way is recorded as cut off
            under_way.kill()
            raise

    def _due(self) -> Iterator[tuple[WireRequest, int]]:
        """Each request at its time; after the last one, the rest of the budget's duration."""
        alarm, start_ns = Alarm(), time.monotonic_ns()
        duration_s = self.job.budget.duration_s
        end_ns = start_ns + int(duration_s * 1e9) if duration_s is not None else None
        try:
            while (request := self.schedule.next_measured()) is not None:
                due_ns = start_ns + int((request.request.scheduled_s or 0.0) * 1e9)
                if end_ns is not None and due_ns >= end_ns:
                    alarm.sleep_until(end_ns)
                    return
                alarm.sleep_until(due_ns)
                yield request, due_ns
        finally:
            alarm.close()

    def _add_spare(self, idle: list[Connection]) -> None:
        """A connection that is open before it is needed."""
        connection = self._connection()
        _try_to_open(connection)
        idle.append(connection)

    def _send_on_idle(self, idle: list[Connection], request: WireRequest, due_ns: int) -> None:
        connection = idle.pop() if idle else self._connection()
        self.converse(connection, request.index, request, due_ns)
        idle.append(connection)

    # ---------------------------------------------------------------- around the requests

    def watch(self) -> None:
        """Tell progress, now and then."""
        while True:
            gevent.sleep(PROGRESS_EVERY_S)
            self.tell_progress()

    def tell_progress(self) -> None:
        """Tokens that nobody has counted yet are taken for one a piece."""
        recorder, under_way = self._recorder, self._under_way.values()
        tokens = recorder.tokens + recorder.unread_pieces + sum(len(one.body) for one in under_way)
        self._tell(DriveProgress(self.phase, recorder.requests, tokens, recorder.errors))

    def stop(self) -> None:
        """Send nothing new, and record what is under way as cut off."""
        self.schedule.stop()
        gevent.spawn(self.end_users)


def _try_to_open(connection: Connection) -> None:
    """So that the first request need not; a server that refuses is the first request's error."""
    try:
        connection.open()
    except OSError:
        connection.close()


def _at_once() -> None:
    """Nothing to wait for, nobody to end."""
