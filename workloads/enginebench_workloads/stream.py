"""One HTTP/1.1 exchange over a raw socket, stamped on arrival and parsed only when it is over.

The timed path is `recv` and a clock: a response is kept as (time, bytes) pairs. What it meant
(transfer chunks, SSE events, JSON) is worked out afterwards in `sse.py`. Knows nothing of tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

__all__ = ["Address", "Connection", "Exchange", "HttpError", "decode_body", "socket_factory"]

READ_BYTES = 1 << 16
TAIL_BYTES = 512


class HttpError(Exception):
    """The server broke the connection or the protocol."""


class Socket(Protocol):
    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


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


@dataclass(slots=True)
class Exchange:
    """What came back: `parts` are (arrival in monotonic ns, bytes), the head included."""

    sent_ns: int = 0
    end_ns: int = 0
    status: int | None = None
    head_bytes: int = 0
    chunked: bool = False
    length: int | None = None
    keep_alive: bool = True
    parts: list[tuple[int, bytes]] = field(default_factory=list)


class Connection:
    """A keep-alive connection of one user. `exchange` raises OSError or HttpError."""

    def __init__(self, address: Address, connect: Callable[[Address], Socket]) -> None:
        self._address, self._connect = address, connect
        self._socket: Socket | None = None

    def open(self) -> None:
        """Connect unless connected."""
        if self._socket is None:
            self._socket = self._connect(self._address)

    def close(self) -> None:
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
            if not kept or into.parts:
                raise
            self._attempt(request, into)

    def _attempt(self, request: bytes, into: Exchange) -> None:
        self.open()
        assert self._socket is not None
        into.sent_ns = time.monotonic_ns()
        self._socket.sendall(request)
        _receive(self._socket, into)
        if not into.keep_alive:
            self.close()


def _receive(socket: Socket, into: Exchange) -> None:
    parts, now = into.parts, time.monotonic_ns
    received, tail = 0, b""
    while True:
        data = socket.recv(READ_BYTES)
        stamp = now()
        if not data:
            _end_of_file(into, stamp)
            return
        parts.append((stamp, data))
        received += len(data)
        if into.status is None:
            _read_head(into)
        tail = (tail + data)[-TAIL_BYTES:]
        if into.status is not None and _complete(into, received, tail):
            into.end_ns = stamp
            return


def _end_of_file(into: Exchange, stamp: int) -> None:
    """The end of an answer that has no other; an error in any other."""
    into.end_ns, into.keep_alive = stamp, False
    if into.status is None:
        raise HttpError("the server closed the connection before it answered")
    if into.chunked or into.length is not None:
        raise HttpError("the server closed the connection in the middle of an answer")


def _read_head(into: Exchange) -> None:
    head, found, _ = b"".join(data for _, data in into.parts).partition(b"\r\n\r\n")
    if not found:
        return
    status_line, *lines = head.split(b"\r\n")
    try:
        into.status = int(status_line.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise HttpError(f"not an HTTP answer: {status_line[:80]!r}") from None
    into.head_bytes = len(head) + 4
    fields = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(b":") for line in lines)
    }
    into.chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
    size = fields.get(b"content-length")
    into.length = int(size) if size and size.isdigit() and not into.chunked else None
    into.keep_alive = fields.get(b"connection") != b"close"


def _complete(into: Exchange, received: int, tail: bytes) -> bool:
    """Whether the answer has ended. The cheap look comes first, the full parse confirms it."""
    if into.length is not None:
        return received - into.head_bytes >= into.length
    if not into.chunked or not tail.endswith(b"\r\n"):
        return False
    if not (tail.endswith(b"0\r\n\r\n") or b"\r\n0\r\n" in tail):
        return False
    return decode_body(into)[1]


def decode_body(exchange: Exchange) -> tuple[list[tuple[int, bytes]], bool]:
    """The body without transfer coding, as (arrival, bytes) pairs; and whether it is whole.

    A transfer chunk that came in several reads is stamped with the read that completed it.
    """
    skip = exchange.head_bytes
    body: list[tuple[int, bytes]] = []
    for stamp, data in exchange.parts:
        if skip < len(data):
            body.append((stamp, data[skip:]))
        skip = max(0, skip - len(data))
    if not exchange.chunked:
        size = sum(len(data) for _, data in body)
        return body, exchange.length is None or size >= exchange.length
    return _decode_chunks(body)


def _decode_chunks(body: list[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], bool]:
    out: list[tuple[int, bytes]] = []
    buffer, need = (
        b"",
        -1,
    )  # need: bytes of the current chunk with its line end; below 0: its size line
    for stamp, data in body:
        buffer += data
        start = 0
        while True:
            if need < 0:
                line_end = buffer.find(b"\r\n", start)
                if line_end < 0:
                    break
                try:
                    size = int(buffer[start:line_end].partition(b";")[0], 16)
                except ValueError:
                    raise HttpError(f"bad chunk size {buffer[start:line_end][:40]!r}") from None
                if size == 0:  # the last chunk: trailers, if any, then an empty line
                    if buffer.find(b"\r\n\r\n", line_end) >= 0:
                        return out, True
                    break
                start, need = line_end + 2, size + 2
            if len(buffer) - start < need:
                break
            out.append((stamp, buffer[start : start + need - 2]))
            start, need = start + need, -1
        buffer = buffer[start:]
    return out, False


def socket_factory(timeout_s: float = 30.0) -> Callable[[Address], Socket]:
    """Cooperative (gevent) sockets with Nagle off; the timeout is for connecting only."""
    import gevent.socket
    import gevent.ssl

    def connect(address: Address) -> Socket:
        raw = gevent.socket.create_connection((address.host, address.port), timeout=timeout_s)
        raw.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        if address.tls:
            context = gevent.ssl.create_default_context()
            raw = context.wrap_socket(raw, server_hostname=address.host)
        raw.settimeout(None)
        secured: Socket = raw
        return secured

    return connect
