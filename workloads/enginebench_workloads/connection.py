"""A keep-alive connection of one user: sends a request, collects the answer in an `Exchange`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from enginebench_workloads.exchange import Exchange, HttpError

__all__ = ["Address", "Connection", "Socket"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, from its base URL."""

    host: str
    port: int
    tls: bool
    prefix: str

    @classmethod
    def parse(cls, base_url: str) -> Address:
        """Raises ValueError for anything but http(s)://host[:port][/prefix]."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base URL {base_url!r} is not http(s)://host[:port]")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))


class Socket(Protocol):
    """What a connection needs of `enginebench_workloads.link.Link`."""

    def sendall(self, data: bytes) -> None: ...
    def receive(self, take: Callable[[int, bytes], bool]) -> None: ...
    def close(self) -> None: ...


class Connection:
    """`exchange` raises OSError or HttpError."""

    def __init__(self, connect: Callable[[], Socket]) -> None:
        self._connect = connect
        self._socket: Socket | None = None

    def open(self) -> None:
        """Connect unless connected."""
        if self._socket is None:
            self._socket = self._connect()

    def close(self) -> None:
        """Hang up; the next exchange connects anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, request: bytes, into: Exchange) -> None:
        """Send one request, collect its whole response in `into`.

        A kept connection that the server closed meanwhile is replaced once, and `sent_ns` counts
        from the second sending.
        """
        kept = self._socket is not None
        try:
            self._attempt(request, into)
        except (OSError, HttpError):
            self.close()
            if not kept or into.begun:
                raise
            into.keep_alive = True
            self._attempt(request, into)

    def _attempt(self, request: bytes, into: Exchange) -> None:
        self.open()
        assert self._socket is not None
        into.sent_ns = time.monotonic_ns()
        self._socket.sendall(request)
        self._socket.receive(into.take)
        if not into.keep_alive:
            self.close()
