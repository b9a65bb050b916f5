"""The engine in a process of its own: an `EngineThread` with a socket between it and the front.

A GPU engine's thread and the event loop compete for one interpreter, and either waits for the other
between any two lines. Apart, each has a core: one message a step crosses, with all of its tokens,
and when the front falls behind it finds several steps in one read, which share a chunk.

The engine's process is forked before anything is loaded: both sides start their imports at the same
time, and nothing need be picklable. It ends with the server, however that ends: its socket closes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, cast

from enginebench.errors import BenchError, EngineError
from enginebench_openai import messages
from enginebench_openai.loop import Died, EngineThread, Event, Refused, Started, Stepped
from enginebench_openai.protocol import EngineStats, GenerationRequest, TokenEngine

__all__ = ["EngineProcess"]

READ_BYTES: Final = 1 << 20
BUFFER_BYTES: Final = 4 << 20  # a front that stands still this long makes the engine wait
STOP_S: Final = 9.0
POLL_S: Final = 0.01


class EngineProcess:
    """Runs one engine in a child. Begins to build at once; events come after `attach`."""

    def __init__(self, build: Callable[[], TokenEngine], *, not_for_it: socket.socket) -> None:
        """Fork: call it while the process has one thread. `not_for_it` is closed in the child."""
        ours, its = socket.socketpair()
        _enlarge(its)
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            not_for_it.close()
            _be_the_engine(its, build)
        its.close()
        self._socket = ours
        self._stopping = False
        self.stats: EngineStats | None = None  # as of the last step; replaced, never changed

    async def attach(self, receive: Callable[[Event], None]) -> None:
        """Give all events to `receive`, in this event loop."""
        self._loop, self._receive = asyncio.get_running_loop(), receive
        transport, _ = await self._loop.create_unix_connection(
            lambda: _Reader(self._take, self._lost), sock=self._socket
        )
        self._transport = transport

    def start(self) -> None:
        """It has begun already."""

    def add(self, requests: Iterable[GenerationRequest]) -> None:
        """Queue requests; from the event loop."""
        self._transport.write(messages.frame(messages.Add(tuple(requests))))

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget requests before the next step begins; from the event loop."""
        self._transport.write(messages.frame(messages.Abort(tuple(request_ids))))

    def stop(self, timeout_s: float) -> bool:
        """Close the engine after the step it is in; False, and killed, if that took too long."""
        self._stopping = True
        stop = messages.frame(messages.Stop())
        self._loop.call_soon_threadsafe(self._transport.write, stop)
        deadline = time.monotonic() + timeout_s
        while not self._has_ended():
            if time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(POLL_S)
        return True

    def kill(self) -> None:
        """End it at once."""
        self._stopping = True
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _has_ended(self) -> bool:
        try:
            return os.waitpid(self._pid, os.WNOHANG)[0] == self._pid
        except ChildProcessError:  # somebody has asked before
            return True

    def _take(self, message: messages.Up) -> None:
        if isinstance(message, messages.Stats):
            self.stats = message.stats
        else:
            self._stopping |= isinstance(message, messages.Dead)
            self._receive(_event(message))

    def _lost(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._receive(Died(EngineError("the engine's process has ended; was it killed?")))


class _Reader(asyncio.Protocol):
    """Cuts what comes into messages."""

    def __init__(self, take: Callable[[messages.Up], None], lost: Callable[[], None]) -> None:
        self._take, self._lost = take, lost
        self._frames = messages.Frames()

    def data_received(self, data: bytes) -> None:
        for raw in self._frames.cut(data):
            self._take(messages.decode_up(raw))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()


def _event(message: messages.Tokens | messages.Ready | messages.No | messages.Dead) -> Event:
    if isinstance(message, messages.Tokens):
        return Stepped(message.outputs)
    if isinstance(message, messages.Ready):
        return Started(message.context_length, message.features)
    if isinstance(message, messages.No):
        return Refused(message.request_id, message.reason)
    if message.exit_code is None:
        return Died(RuntimeError(message.reason))
    error = BenchError(message.reason)
    error.exit_code = message.exit_code
    return Died(error)


# -------------------------------------------------------------------- the child


def _be_the_engine(link: socket.socket, build: Callable[[], TokenEngine]) -> None:
    """Never returns."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the front says when to stop
        signal.signal(number, signal.SIG_IGN)

    def send(message: messages.Up) -> None:
        try:
            link.sendall(messages.frame(message))
        except OSError:  # the front has gone
            os._exit(1)

    def built() -> TokenEngine:
        engine = build()
        gc.collect()
        gc.freeze()  # what is loaded by now stays: later collections need not walk it
        return engine

    thread = EngineThread(
        built,
        lambda event: send(_message(event)),
        on_stats=lambda stats: send(messages.Stats(stats)),
    )
    thread.start()
    _obey(link, thread)
    os._exit(0)


def _obey(link: socket.socket, thread: EngineThread) -> None:
    """Hand on commands until told to stop, or until the front has gone."""
    frames = messages.Frames()
    while data := link.recv(READ_BYTES):
        for raw in frames.cut(data):
            command = messages.decode_down(raw)
            if isinstance(command, messages.Add):
                thread.add(command.requests)
            elif isinstance(command, messages.Abort):
                thread.abort(command.request_ids)
            else:
                thread.stop(STOP_S)
                return


def _message(event: Event) -> messages.Up:
    if isinstance(event, Stepped):
        return messages.Tokens(tuple(event.outputs))
    if isinstance(event, Started):
        return messages.Ready(event.context_length, event.features)
    if isinstance(event, Refused):
        return messages.No(event.request_id, event.reason)
    exit_code = event.error.exit_code if isinstance(event.error, BenchError) else None
    return messages.Dead(str(event.error), exit_code)


def _enlarge(link: socket.socket) -> None:
    """More than the system's limit where that is allowed, else up to it."""
    force = cast(int, getattr(socket, "SO_SNDBUFFORCE", 32))
    try:
        link.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
    except OSError:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
