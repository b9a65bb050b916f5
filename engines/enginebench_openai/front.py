"""Between the routes and one model's engine: which generations wait, which run, whose tokens are
whose.

Lives in the event loop's thread. Requests wait here, in a queue that is bounded and fair between
clients, until the engine has a slot for them; so they outlive an engine that is unloaded, or that
died before it got them. It takes events from the engine (`receive`), feeds each to its generation,
and wakes the handlers. How the engine comes and goes is decided by its `Keeper`, which calls
`open`, `lose` and `close`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from enginebench_openai.deadlines import Deadlines
from enginebench_openai.errors import ApiError
from enginebench_openai.fair_queue import FairQueue
from enginebench_openai.filings import Filings
from enginebench_openai.flight import Flight
from enginebench_openai.generation import Blame, Generation
from enginebench_openai.limits import Limits
from enginebench_openai.link import EngineLink
from enginebench_openai.loop import (
    CacheAction,
    CacheFiled,
    Refused,
    Started,
    Stepped,
)
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.pace import Pace
from enginebench_openai.protocol import Feature, TokenOutput
from enginebench_openai.visitors import Visitors

__all__ = ["DEAD", "Front", "FrontState"]

# unloaded: no engine, until a request comes; restarting: it died and is being built again
FrontState = Literal["unloaded", "loading", "ready", "restarting", "dead"]

AHEAD: Final = 4  # one request more for every so many slots, so that none waits for the server
DEAD = "the engine has died; see the server's log"


class Front:
    """The requests for one model. `on_wanted` is told when requests need an engine that is not
    there or is about to leave, `on_empty` when the last request has ended.
    """

    def __init__(
        self,
        metrics: ServerMetrics,
        limits: Limits | None = None,
        *,
        on_wanted: Callable[[], None] = lambda: None,
        on_empty: Callable[[], None] = lambda: None,
    ) -> None:
        self.state: FrontState = "unloaded"
        self.shutting_down = False
        self.retry_after_s = 1
        self.context_length = 0  # known once the engine was built for the first time
        self.features: frozenset[Feature] = frozenset()
        self.slots: int | None = None
        self.last_used = time.monotonic()
        self._limits = limits or Limits()
        self._metrics = metrics
        self._on_wanted, self._on_empty = on_wanted, on_empty
        self._link: EngineLink | None = None
        self._room: int | None = None  # requests that may be with the engine; None: any number
        self._flights: dict[str, tuple[Generation, Flight]] = {}
        self._sent: dict[str, str] = {}  # request ids that the engine has: their clients
        self._queue = FairQueue(self._limits.max_queue)
        self._later: FairQueue | None = None  # what came after the engine was told to leave
        self._filings = Filings()
        self._visitors = Visitors()
        self._deadlines = Deadlines(self._limits, self._fail)
        self._pace = Pace()

    @property
    def in_flight(self) -> int:
        """Generations that have not ended."""
        return len(self._flights)

    @property
    def running(self) -> Sequence[Generation]:
        """Generations that the engine has, the oldest first."""
        return [self._flights[name][0] for name in self._sent]

    @property
    def queued(self) -> int:
        """Generations that wait for the engine."""
        return len(self._flights) - len(self._sent)

    @property
    def idle(self) -> bool:
        """Whether the engine has nothing to do, now or before it may leave."""
        return not self._sent and not len(self._queue) and not len(self._filings)

    @property
    def retiring(self) -> bool:
        """Whether the engine was told to leave."""
        return self._later is not None

    @property
    def wants_engine(self) -> bool:
        """Whether requests wait for an engine that is not there."""
        return len(self._visitors) > 0 or (self._link is None and bool(self._flights))

    def require_ready(self) -> None:
        """Raise the error that a request gets while it cannot be taken."""
        if self.shutting_down:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if self.state == "dead":
            raise ApiError(503, DEAD, code="engine_dead")
        if self.state == "restarting":
            raise self._not_now("the engine has died and is being restarted", "restarting")
        if not self.context_length:
            raise self._not_now("the model is still loading", "loading")

    async def usable(self) -> None:
        """Wait until the model was loaded for the first time, which tells its context."""
        if self.context_length or self.shutting_down or self.state in ("dead", "restarting"):
            return
        if len(self._visitors) >= self._limits.max_queue:
            raise self._full(1)
        try:
            await self._visitors.wait(self._on_wanted, self._limits.queue_timeout_s)
        except TimeoutError:
            raise self._not_now("the model was not loaded in time", "loading") from None

    def submit(self, flight: Flight) -> None:
        """Take in a flight: its generations go to the engine, or wait for it."""
        self.require_ready()
        queue = self._queue if self._later is None else self._later
        self._admit(flight, queue)
        for generation in flight.generations:
            name = generation.request.request_id
            self._flights[name] = (generation, flight)
            queue.push(name, flight.client, flight.priority)
        self._metrics.started(flight)
        self._dispatch()
        self._deadlines.set(flight, self._waiting_of(flight))
        if self._link is None or self._later is not None:
            self._on_wanted()

    def abandon(self, flight: Flight) -> None:
        """The client has gone: free what its unfinished generations hold. Harmless when done."""
        self._deadlines.cancel(flight)
        known = [
            generation.request.request_id
            for generation in flight.generations
            if self._flights.pop(generation.request.request_id, None) is not None
        ]
        if known:
            self._metrics.abandoned(len(known))
            self._withdraw(known)
        flight.abandon()

    async def file_cache(self, action: CacheAction, path: Path) -> int:
        """Keep the engine's prompt cache in a file, fill it from one, or erase it; the number of
        tokens.
        """
        self.require_ready()
        if self._link is None:
            raise self._not_now("the model is not loaded", "loading")
        try:
            return await self._filings.file(self._link.file_cache, action, path)
        finally:
            self._go_on()

    def receive(self, event: Stepped | Refused | CacheFiled) -> None:
        """Take an event from the engine."""
        if isinstance(event, CacheFiled):
            self._filings.settle(event)
            return
        if isinstance(event, Refused):
            self._fail((event.request_id,), event.reason, "request")
            self._go_on()
            return
        now = time.perf_counter()
        for output in event.outputs:
            self._deliver(output, now)
        if len(self._sent) < len(self._flights) or not self._flights:
            self._go_on()

    # ------------------------------------------------------------ the engine comes and goes

    def open(self, link: EngineLink, started: Started) -> None:
        """An engine is there."""
        self._link, self.state = link, "ready"
        self.last_used = time.monotonic()
        self.context_length, self.features = started.context_length, started.features
        self.slots = slots = started.slots
        self._room = None if slots is None else slots + max(1, slots // AHEAD)
        self._visitors.let_in()
        self._dispatch()

    def retire(self) -> None:
        """The engine is to leave: it still gets what waits now, but nothing that comes later."""
        if self._later is None:
            self._later = FairQueue(self._limits.max_queue)

    def close(self) -> None:
        """The engine, idle, is leaving; what has come since `retire` waits for the next one."""
        assert self.idle
        self._link, self.state = None, "unloaded"
        if self._later is not None:
            self._queue, self._later = self._later, None

    def lose(self, state: FrontState) -> None:
        """The engine has died, and with it what it had; the others wait where there is hope."""
        self._link, self.state = None, state
        self._fail(tuple(self._sent), DEAD, "server")
        self._filings.fail(DEAD)
        if self._later is not None:  # nobody is there who could leave
            for name in self._later:
                _, flight = self._flights[name]
                self._queue.push(name, flight.client, flight.priority)
            self._later = None

    def give_up(self, reason: str) -> None:
        """There will be no engine: whoever waits for one is told why."""
        self._visitors.turn_away(ApiError(503, reason, code="model_not_loaded"))
        self.fail_all(reason)

    def fail_all(self, reason: str) -> None:
        """End every generation in flight with an error."""
        self._fail(tuple(self._flights), reason, "server")

    # ---------------------------------------------------------------------------- inside

    def _admit(self, flight: Flight, queue: FairQueue) -> None:
        count = len(flight.generations)
        at_once = 0
        if self._link is not None and self._later is None:
            at_once = count if self._room is None else max(0, self._room - len(self._sent))
        waiting = max(0, count - at_once)
        if waiting > queue.places:
            raise ApiError(
                400,
                f"one request may ask for at most {queue.places} generations here; got {count}",
                code="invalid_value",
            )
        if waiting and not queue.has_room(waiting, flight.client):
            raise self._full(count)

    def _full(self, count: int) -> ApiError:
        self._metrics.refused += count
        return ApiError(
            429,
            "the server has as many requests waiting as it takes from one client; try again later",
            code="queue_full",
            headers={"retry-after": str(self._pace.retry_after_s(self.queued))},
        )

    def _not_now(self, message: str, code: str) -> ApiError:
        headers = {"retry-after": str(self.retry_after_s)}
        return ApiError(503, message, code=code, headers=headers)

    def _dispatch(self) -> None:
        """Hand the engine what it has room for."""
        queue, link = self._queue, self._link
        if link is None or not len(queue):
            return
        room = len(queue) if self._room is None else self._room - len(self._sent)
        now, requests = time.perf_counter(), []
        while room > 0 and len(queue):
            name = queue.pop()
            generation, flight = self._flights[name]
            self._sent[name] = flight.client
            generation.sent_at = now
            requests.append(generation.request)
            self._metrics.left_queue(now - flight.arrived_at)
            room -= 1
        if requests:
            link.add(requests)

    def _go_on(self) -> None:
        """After something ended."""
        self._dispatch()
        self.last_used = time.monotonic()
        if not self._flights or (self._later is not None and self.idle):
            self._on_empty()

    def _deliver(self, output: TokenOutput, now: float) -> None:
        found = self._flights.get(output.request_id)
        if found is None:  # abandoned or stopped while the step ran
            return
        generation, flight = found
        before = generation.completion_tokens
        generation.push(output)
        self._metrics.tokens(flight, generation, generation.completion_tokens - before, now)
        if generation.finish_reason is not None:
            self._end(output, generation, flight, now)
        elif generation.has_text:
            flight.tell(generation)

    def _end(self, output: TokenOutput, generation: Generation, flight: Flight, now: float) -> None:
        name = output.request_id
        del self._flights[name]
        if output.finish_reason is None:  # ended by a stop string, which the engine knows not of
            assert self._link is not None
            self._link.abort((name,))
        self._free(name)
        self._pace.ended(now)
        self._metrics.finished(flight, generation, now)
        flight.tell(generation)

    def _free(self, name: str) -> bool:
        """Forget where a request was; whether the engine had it."""
        client = self._sent.pop(name, None)
        if client is not None:
            self._queue.release(client)
            return True
        self._queue.remove(name) or (self._later is not None and self._later.remove(name))
        return False

    def _withdraw(self, names: Iterable[str]) -> None:
        """Take requests back from wherever they are."""
        running = [name for name in names if self._free(name)]
        if running and self._link is not None:
            self._link.abort(running)
        self._go_on()

    def _fail(self, names: Iterable[str], reason: str, blame: Blame) -> None:
        """End some generations with an error; those that the engine has are aborted."""
        ended = [(name, *self._flights.pop(name)) for name in names if name in self._flights]
        now = time.perf_counter()
        for _, generation, flight in ended:
            generation.fail(reason, blame)
            self._metrics.finished(flight, generation, now)
            flight.tell(generation)
        if ended:
            self._withdraw([name for name, _, _ in ended])

    def _waiting_of(self, flight: Flight) -> Callable[[], Sequence[str]]:
        """Those of its generations that the engine does not have, whenever it is asked."""
        names = [one.request.request_id for one in flight.generations]
        return lambda: [name for name in names if name not in self._sent]
