"""The engine in a process of its own: an `EngineThread` with a socket between it and the front.

A GPU engine's thread and the event loop compete for one interpreter, and either waits for the other
between any two lines. Apart, each has a core: one message a step crosses, with all of its tokens,
and when the front falls behind it finds several steps in one read, which share a chunk.

The process is forked by the `Nursery`, before anything is loaded: both sides do their imports at
the same time. It ends with the server, however that ends: its socket closes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import psutil

from enginebench.errors import BenchError, EngineError
from enginebench_openai import messages
from enginebench_openai.loop import (
    CacheFiled,
    Died,
    EngineThread,
    Event,
    FileCache,
    Refused,
    Started,
    Stepped,
)
from enginebench_openai.nursery import Child
from enginebench_openai.protocol import EngineStats, GenerationRequest, TokenEngine

__all__ = ["EngineProcess", "run_engine"]

READ_BYTES: Final = 1 << 20
STOP_S: Final = 9.0
GONE_S: Final = 5.0  # how long a process whose socket has closed may take to free what it holds
POLL_S: Final = 0.01


class EngineProcess:
    """The front's side of an engine's process. Events come after `start`, in the event loop."""

    def __init__(self, child: Child, receive: Callable[[Event], None]) -> None:
        self._child, self._receive = child, receive
        self._stopping = False
        self._lost_link = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self.stats: EngineStats | None = None  # as of the last step; replaced, never changed

    def start(self) -> None:
        """Listen to it: it builds already."""
        self._attaching = asyncio.get_running_loop().create_task(self._attach())

    def add(self, requests: Iterable[GenerationRequest]) -> None:
        """Queue requests."""
        self._send(messages.Add(tuple(requests)))

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget requests before the next step begins."""
        self._send(messages.Abort(tuple(request_ids)))

    def file_cache(self, command: FileCache) -> None:
        """Save or restore the prompt cache between steps; `CacheFiled` tells how it went."""
        self._send(messages.File(command))

    def own_bytes(self) -> int | None:
        """What its process holds in memory, mapped files included; None when it has ended."""
        try:
            return psutil.Process(self._child.pid).memory_info().rss
        except psutil.Error:
            return None

    async def close(self, timeout_s: float) -> bool:
        """End it after the step it is in; False, and killed, if that took too long."""
        self._stopping = True
        self._send(messages.Stop())
        try:
            await asyncio.wait_for(self._lost_link.wait(), timeout_s)
        except TimeoutError:
            self.kill()
        in_time = self._lost_link.is_set()
        await self._gone()
        return in_time

    def kill(self) -> None:
        """End it at once."""
        self._stopping = True
        with suppress(ProcessLookupError):
            os.kill(self._child.pid, signal.SIGKILL)

    async def _attach(self) -> None:
        self._transport, _ = await asyncio.get_running_loop().create_unix_connection(
            lambda: _Reader(self._take, self._lost), sock=self._child.socket
        )

    def _send(self, message: messages.Down) -> None:
        if self._transport is not None and not self._lost_link.is_set():
            self._transport.write(messages.frame(message))

    async def _gone(self) -> None:
        """Memory is free when the process has left the system's table."""
        with suppress(ProcessLookupError):
            for _ in range(round(GONE_S / POLL_S)):
                os.kill(self._child.pid, 0)
                await asyncio.sleep(POLL_S)

    def _take(self, message: messages.Up) -> None:
        if isinstance(message, messages.Stats):
            self.stats = message.stats
        else:
            self._stopping |= isinstance(message, messages.Dead)
            self._receive(_event(message))

    def _lost(self) -> None:
        self._lost_link.set()
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


def _event(
    message: messages.Tokens | messages.Ready | messages.No | messages.Filed | messages.Dead,
) -> Event:
    if isinstance(message, messages.Tokens):
        return Stepped(message.outputs)
    if isinstance(message, messages.Ready):
        return Started(
            message.context_length, message.features, message.slots, message.device_bytes
        )
    if isinstance(message, messages.Filed):
        return message.result
    if isinstance(message, messages.No):
        return Refused(message.request_id, message.reason)
    if message.exit_code is None:
        return Died(RuntimeError(message.reason))
    error = BenchError(message.reason)
    error.exit_code = message.exit_code
    return Died(error)


# -------------------------------------------------------------------- the child


def run_engine(link: socket.socket, build: Callable[[], TokenEngine]) -> None:
    """What the process does: build the engine and obey `link` until it closes."""

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
            elif isinstance(command, messages.File):
                thread.file_cache(command.command)
            else:
                thread.stop(STOP_S)
                return


def _message(event: Event) -> messages.Up:
    if isinstance(event, Stepped):
        return messages.Tokens(tuple(event.outputs))
    if isinstance(event, Started):
        return messages.Ready(event.context_length, event.features, event.slots, event.device_bytes)
    if isinstance(event, CacheFiled):
        return messages.Filed(event)
    if isinstance(event, Refused):
        return messages.No(event.request_id, event.reason)
    exit_code = event.error.exit_code if isinstance(event.error, BenchError) else None
    return messages.Dead(str(event.error), exit_code)
