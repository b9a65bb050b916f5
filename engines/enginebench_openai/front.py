"""Between the routes and the engine: which generations are in flight, and whose tokens are whose.

Lives in the event loop's thread. It takes events from the engine (`receive`), feeds each to its
generation, and wakes the handlers. The engine is reached through three calls (`add`, `abort`,
`stats`), so it can be a thread here or a process elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from enginebench_openai.errors import ApiError
from enginebench_openai.flight import Flight
from enginebench_openai.generation import Generation
from enginebench_openai.loop import Died, Event, Refused, Started
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput

__all__ = ["EngineLink", "Front", "FrontState"]

FrontState = Literal["loading", "ready", "draining", "dead"]


class EngineLink(Protocol):
    """What the front needs of whatever runs the engine; none of it blocks."""

    stats: EngineStats | None

    def add(self, requests: Iterable[GenerationRequest]) -> None:
        """Queue requests."""
        ...

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget requests before the next step."""
        ...


class Front:
    """The requests in flight. `on_started` and `on_died` are told once, from the event loop."""

    def __init__(
        self,
        metrics: ServerMetrics,
        *,
        on_started: Callable[[], None] = lambda: None,
        on_died: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.state: FrontState = "loading"
        self.context_length = 0
        self.features: frozenset[Feature] = frozenset()
        self.link: EngineLink | None = None
        self._metrics = metrics
        self._on_started, self._on_died = on_started, on_died
        self._flights: dict[str, tuple[Generation, Flight]] = {}

    @property
    def in_flight(self) -> int:
        """Generations that have not ended."""
        return len(self._flights)

    def require_ready(self) -> None:
        """Raise the error that a request gets while the engine cannot take it."""
        if self.state == "loading":
            raise ApiError(
                503, "the model is still loading", code="loading", headers={"retry-after": "1"}
            )
        if self.state == "dead":
            raise ApiError(503, "the engine has died; see the server's log", code="engine_dead")
        if self.state == "draining":
            raise ApiError(503, "the server is shutting down", code="shutting_down")

    def submit(self, flight: Flight) -> None:
        """Send a flight's generations to the engine."""
        self.require_ready()
        assert self.link is not None
        for generation in flight.generations:
            self._flights[generation.request.request_id] = (generation, flight)
        self.link.add(generation.request for generation in flight.generations)
        self._metrics.started(flight)

    def abandon(self, flight: Flight) -> None:
        """The client has gone: free what its unfinished generations hold. Harmless when done."""
        known = [
            generation.request.request_id
            for generation in flight.generations
            if self._flights.pop(generation.request.request_id, None) is not None
        ]
        if known:
            assert self.link is not None
            self.link.abort(known)
            self._metrics.abandoned(len(known))
        flight.abandon()

    def receive(self, event: Event) -> None:
        """Take an event from the engine."""
        if isinstance(event, Started):
            self.context_length = event.context_length
            self.features = event.features
            if self.state == "loading":  # not if it was told to stop meanwhile
                self.state = "ready"
                self._on_started()
        elif isinstance(event, Refused):
            self._refuse(event)
        elif isinstance(event, Died):
            self.state = "dead"
            self.fail_all("the engine has died; see the server's log")
            self._on_died(event.error)
        else:
            now = time.perf_counter()
            for output in event.outputs:
                self._deliver(output, now)

    def fail_all(self, reason: str) -> None:
        """End every generation in flight with an error."""
        flights, self._flights = self._flights, {}
        for generation, flight in flights.values():
            generation.fail(reason, "server")
            self._metrics.finished(flight, generation, time.perf_counter())
            flight.tell(generation)
        if flights and self.link is not None and self.state != "dead":
            self.link.abort(flights)

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
        del self._flights[output.request_id]
        if output.finish_reason is None:  # ended by a stop string, which the engine knows not of
            assert self.link is not None
            self.link.abort((output.request_id,))
        self._metrics.finished(flight, generation, now)
        flight.tell(generation)

    def _refuse(self, event: Refused) -> None:
        found = self._flights.pop(event.request_id, None)
        if found is None:
            return
        generation, flight = found
        generation.fail(event.reason, "request")
        self._metrics.finished(flight, generation, time.perf_counter())
        flight.tell(generation)
