"""Sends a flight's answer: as a stream of events, or whole. Aborts it when the client leaves.

A stream's status line waits for the engine's first word, so that a request which fails before its
first token gets a proper error instead of a broken stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enginebench_openai.errors import ApiError
from enginebench_openai.flight import Flight
from enginebench_openai.front import Front
from enginebench_openai.generation import Generation
from enginebench_openai.sse import error_event

__all__ = ["EventStream", "Writer", "whole_answer"]

_STREAM_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}


class Writer(Protocol):
    """Writes the events of one stream; each method returns bytes to send."""

    def text(self, generation: Generation) -> bytes:
        """What `generation` has new, and how it ended if it did."""
        ...

    def end(self, generations: Sequence[Generation]) -> bytes:
        """What closes the stream after every choice has ended."""
        ...


async def whole_answer(
    request: Request,
    front: Front,
    flight: Flight,
    write: Callable[[Sequence[Generation], Sequence[Generation]], bytes],
    pick: Callable[[Sequence[Generation]], Sequence[Generation]] | None = None,
) -> Response:
    """Wait for all generations, then `write` those that `pick` keeps, and the usage of all.

    An empty answer if the client has gone: nobody reads it.
    """
    async with _in_flight(front, flight, request.receive):
        await flight.news()
    if flight.abandoned and flight.unfinished:
        return Response(status_code=499)
    if flight.failure is not None:
        raise _failure(flight.failure)
    made = flight.generations
    return Response(write(pick(made) if pick else made, made), media_type="application/json")


class EventStream:
    """Streams a flight's events as they come; an ASGI application for one request."""

    def __init__(self, front: Front, flight: Flight, writer: Writer) -> None:
        self._front, self._flight, self._writer = front, flight, writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One body message per batch of news."""
        flight = self._flight
        async with _in_flight(self._front, flight, receive):
            news = await flight.news()
            if flight.failure is not None:
                raise _failure(flight.failure)
            if news:
                await send(_STREAM_START)
                send = scope["state"].get("send_on", send)
            while news:
                last = flight.unfinished == 0 or flight.failure is not None
                body = self._events(news, last)
                await send({"type": "http.response.body", "body": body, "more_body": not last})
                if last:
                    return
                news = await flight.news()

    def _events(self, news: Sequence[Generation], last: bool) -> bytes:
        if self._flight.failure is not None:
            return error_event(_failure(self._flight.failure))
        events = b"".join(map(self._writer.text, news))
        return events + self._writer.end(self._flight.generations) if last else events


@asynccontextmanager
async def _in_flight(front: Front, flight: Flight, receive: Receive) -> AsyncIterator[None]:
    """Submit; abort what is unfinished on the way out, or as soon as the client disconnects."""
    front.submit(flight)
    watcher = asyncio.create_task(_abandon_on_disconnect(front, flight, receive))
    try:
        yield
    finally:
        watcher.cancel()
        front.abandon(flight)


async def _abandon_on_disconnect(front: Front, flight: Flight, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    front.abandon(flight)


def _failure(generation: Generation) -> ApiError:
    reason = generation.error or ""
    if generation.blame == "request":
        return ApiError(400, reason, code="refused_by_engine")
    if generation.blame == "timeout":
        return ApiError(504, reason, code="timeout")
    if generation.blame == "overload":
        return ApiError(503, reason, code="overloaded", headers={"retry-after": "1"})
    return ApiError(503 if generation.blame == "server" else 500, reason, code="engine_error")
