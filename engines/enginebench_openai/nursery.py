"""A small process that forks engines for a server which can no longer fork itself.

A process with threads cannot be forked safely, and a server has threads as soon as it has loaded a
tokenizer. So this one is forked first, while there is a single thread, and waits: each engine, the
first one, one that replaces a dead one or that of another model, is a child of its, as fresh as the
first. Nothing need be picklable, and an engine that has ended leaves nothing behind, neither on the
GPU nor in memory.

It ends when the server does, however that ends: its socket closes. So do the engines.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, cast

from enginebench.errors import EngineError

__all__ = ["Child", "Nursery"]

BUFFER_BYTES: Final = 4 << 20  # a front that stands still this long makes the engine wait
_NUMBER_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Child:
    """An engine's process: its id, and our end of the socket to it."""

    pid: int
    socket: socket.socket


class Nursery:
    """Forks children that run one of `mains`, each with its end of a socket."""

    def __init__(
        self, mains: Sequence[Callable[[socket.socket], None]], *, not_for_it: socket.socket
    ) -> None:
        """Fork: call it while the process has one thread. `not_for_it` is closed in the child."""
        ours, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            not_for_it.close()
            _serve(its, mains)
        its.close()
        self._socket = ours

    def spawn(self, which: int) -> Child:
        """A new process that runs `mains[which]`; EngineError if the nursery has ended."""
        ours, its = socket.socketpair()
        _enlarge(its)
        try:
            socket.send_fds(self._socket, [which.to_bytes(_NUMBER_BYTES, "little")], [its.fileno()])
            answer = self._socket.recv(_NUMBER_BYTES)
        except OSError:
            answer = b""
        its.close()
        if len(answer) < _NUMBER_BYTES:
            ours.close()
            raise EngineError("the process that starts engines has ended; was it killed?")
        return Child(int.from_bytes(answer, "little"), ours)


def _serve(link: socket.socket, mains: Sequence[Callable[[socket.socket], None]]) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):  # the server says when to stop
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that end leave no zombies
    while True:
        order, handles, _, _ = socket.recv_fds(link, _NUMBER_BYTES, 1)
        if not order:  # the server has gone
            os._exit(0)
        its = socket.socket(fileno=handles[0])
        pid = os.fork()
        if pid == 0:
            link.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            mains[int.from_bytes(order, "little")](its)
            os._exit(0)
        its.close()
        link.sendall(pid.to_bytes(_NUMBER_BYTES, "little"))


def _enlarge(link: socket.socket) -> None:
    """More than the system's limit where that is allowed, else up to it."""
    force = cast(int, getattr(socket, "SO_SNDBUFFORCE", 32))
    try:
        link.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
    except OSError:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
