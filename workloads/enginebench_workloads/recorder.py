"""Turns finished exchanges into records while nothing else is to be done.

Parsing an answer takes longer than reading it, and would delay the stamps of whatever arrives in
the meantime. So it waits until the event loop is idle, and then goes on for a fraction of a
millisecond at a time. What waits too long (a client that is never idle) is forced through by
`catch_up`; that client's figures are worth little anyway.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import IO, Any

import gevent
import msgspec

from enginebench.types import RequestRecord
from enginebench_workloads.exchange import Exchange
from enginebench_workloads.schedule import Phase
from enginebench_workloads.sse import Answer, reading

__all__ = ["Finished", "Recorder", "read_in_slices"]

SLICE_NS = 100_000
PATIENCE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Finished:
    """An exchange that is over, well or not; with its `answer` where that was needed at once."""

    request_index: int
    user: int
    phase: Phase
    scheduled_ns: int
    exchange: Exchange
    error: str | None
    answer: Answer | None = None


class Recorder:
    """Appends records to `sink` in the order in which exchanges ended; counts them."""

    def __init__(self, sink: IO[bytes]) -> None:
        self.requests = self.tokens = self.errors = 0
        self._sink = sink
        self._waiting: deque[Finished] = deque()
        self._current: Generator[None, None, Answer] | None = None
        self._idle: Any = gevent.get_hub().loop.idle()

    def add(self, finished: Finished) -> None:
        """Take note of it; its record is written later."""
        self._waiting.append(finished)
        self.requests += 1
        if len(self._waiting) == 1:
            self._idle.start(self._slice)

    @property
    def unread_pieces(self) -> int:
        """Pieces of answers that are over and not parsed yet."""
        return sum(len(finished.exchange.body) for finished in self._waiting)

    def catch_up(self) -> None:
        """A slice for what has waited too long."""
        if self._waiting and time.monotonic_ns() - self._waiting[0].exchange.end_ns > PATIENCE_NS:
            self._slice()

    def drain(self) -> None:
        """Write everything that is left."""
        while self._waiting:
            self._slice()

    def _slice(self) -> None:
        until_ns = time.monotonic_ns() + SLICE_NS
        while self._waiting and time.monotonic_ns() < until_ns:
            self._step()
        if not self._waiting:
            self._idle.stop()

    def _step(self) -> None:
        finished = self._waiting[0]
        if finished.answer is not None:
            self._waiting.popleft()
            self._write(_record(finished, finished.answer))
            return
        if self._current is None:
            self._current = reading(finished.exchange)
        try:
            next(self._current)
        except StopIteration as end:
            self._waiting.popleft()
            self._current = None
            self._write(_record(finished, end.value))

    def _write(self, record: RequestRecord) -> None:
        self._sink.write(msgspec.json.encode(record) + b"\n")
        self._sink.flush()
        self.tokens += sum(record.chunk_tokens)
        self.errors += record.error is not None


def read_in_slices(exchange: Exchange) -> Answer:
    """For a greenlet that needs the answer now: others are let in between."""
    steps = reading(exchange)
    until_ns = time.monotonic_ns() + SLICE_NS
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
        if time.monotonic_ns() >= until_ns:
            gevent.sleep(0)
            until_ns = time.monotonic_ns() + SLICE_NS


def _record(finished: Finished, answer: Answer) -> RequestRecord:
    exchange = finished.exchange
    error = answer.error if exchange.status is not None else None
    return RequestRecord(
        request_index=finished.request_index,
        user=finished.user,
        phase=finished.phase,
        scheduled_ns=finished.scheduled_ns,
        sent_ns=exchange.sent_ns or finished.scheduled_ns,
        end_ns=exchange.end_ns,
        chunk_ns=tuple(answer.chunk_ns),
        chunk_tokens=tuple(answer.chunk_tokens),
        token_count_source=answer.token_count_source,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cached_prompt_tokens=answer.cached_prompt_tokens,
        finish_reason=answer.finish_reason,
        http_status=exchange.status,
        error=finished.error or error,
        text="".join(answer.texts),
    )
