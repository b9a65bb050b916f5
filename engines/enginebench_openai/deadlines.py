"""How long requests may wait for a slot, and how long they may take in all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from enginebench_openai.flight import Flight
from enginebench_openai.generation import Blame
from enginebench_openai.limits import Limits

__all__ = ["Deadlines"]


class Deadlines:
    """`fail` ends requests, by their ids, with a reason and whose fault it is."""

    def __init__(self, limits: Limits, fail: Callable[[Iterable[str], str, Blame], None]) -> None:
        self._limits, self._fail = limits, fail

    def set(self, flight: Flight, waiting: Callable[[], Sequence[str]]) -> None:
        """From now on; `waiting` tells which of its requests wait for a slot."""
        loop, limits = asyncio.get_running_loop(), self._limits
        if limits.request_timeout_s is not None:
            flight.timers.append(loop.call_later(limits.request_timeout_s, self._too_long, flight))
        if limits.queue_timeout_s is not None and waiting():
            flight.timers.append(loop.call_later(limits.queue_timeout_s, self._not_begun, waiting))

    def cancel(self, flight: Flight) -> None:
        """It has ended."""
        for timer in flight.timers:
            timer.cancel()
        flight.timers.clear()

    def _too_long(self, flight: Flight) -> None:
        names = [one.request.request_id for one in flight.generations]
        limit_s = self._limits.request_timeout_s
        self._fail(names, f"the request took longer than this server's {limit_s:g} s", "timeout")

    def _not_begun(self, waiting: Callable[[], Sequence[str]]) -> None:
        limit_s = self._limits.queue_timeout_s
        reason = f"the server is overloaded: no slot came free in {limit_s:g} s"
        self._fail(waiting(), reason, "overload")
