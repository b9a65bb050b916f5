"""A server whose timing is known: streams tokens at an exact cadence and notes when each one left.

    python -m enginebench_workloads.pacer --ttft-ms 20 --itl-ms 20 --stamps stamps.jsonl

It is what the driver is held against: clocks of two processes on one machine agree, so the time
between a note here and the driver's own stamp is the driver's error (and the kernel's few
microseconds). Token k of a request is due at an absolute time, so a late one does not delay the
next. A request whose prompt begins with token id N leaves its notes under N. On SIGTERM the notes
are written, one `Sent` as JSON a line. Knows HTTP and SSE just well enough for our driver.
"""

from __future__ import annotations

import argparse
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

import msgspec

from enginebench_workloads.open_files import allow_many_sockets

__all__ = ["Pacer", "Sent", "main"]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Sent(msgspec.Struct, frozen=True):
    """When a request was complete here, and when each of its tokens was sent (monotonic ns)."""

    request_index: int
    received_ns: int
    sent_ns: Sequence[int]


class _Body(msgspec.Struct):
    prompt: tuple[int, ...]
    max_tokens: int


_decode_body = msgspec.json.Decoder(_Body).decode


@dataclass(slots=True)
class _Stream:
    """An answer under way."""

    socket: socket.socket
    request_index: int
    tokens: int
    received_ns: int
    sent_ns: list[int] = field(default_factory=list)


class Pacer:
    """`serve` answers until `stop`; `sent` are the finished answers."""

    def __init__(self, listener: socket.socket, *, ttft_ms: float, itl_ms: float) -> None:
        self.sent: list[Sent] = []
        self._ttft_ns, self._itl_ns = int(ttft_ms * 1e6), int(itl_ms * 1e6)
        self._events = [_event(k + 1) for k in range(4096)]
        self._due: list[tuple[int, int, _Stream]] = []
        self._order = 0
        self._unread: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._listener, self._stopped = listener, False

    def stop(self) -> None:
        """Leave `serve` at its next turn."""
        self._stopped = True

    def serve(self) -> None:
        """Until stopped. The last millisecond before a token is due is waited for awake."""
        while not self._stopped:
            self._send_due()
            wait_ns = self._due[0][0] - time.monotonic_ns() if self._due else 50_000_000
            for key, _ in self._selector.select(max(0.0, wait_ns / 1e9 - 0.001)):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread[connection.fileno()] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
        except ConnectionError:
            data = b""
        unread = self._unread[connection.fileno()] + data
        if not data:
            self._selector.unregister(connection)
            del self._unread[connection.fileno()]
            connection.close()
            return
        self._unread[connection.fileno()] = self._answer(connection, unread)

    def _answer(self, connection: socket.socket, unread: bytes) -> bytes:
        """Begin an answer if the request is whole; what is left of the bytes."""
        head, found, body = unread.partition(b"\r\n\r\n")
        if not found:
            return unread
        if head.startswith(b"GET"):
            connection.sendall(HEALTHY)
            return body
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < size:
            return unread
        received_ns, asked = time.monotonic_ns(), _decode_body(body[:size])
        stream = _Stream(connection, asked.prompt[0], asked.max_tokens, received_ns)
        connection.sendall(HEAD)
        self._schedule(stream)
        return body[size:]

    def _schedule(self, stream: _Stream) -> None:
        due = stream.received_ns + self._ttft_ns + len(stream.sent_ns) * self._itl_ns
        self._order += 1
        heappush(self._due, (due, self._order, stream))

    def _send_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic_ns():
            stream = heappop(self._due)[2]
            try:
                self._send_token(stream)
            except OSError:
                continue  # the client has left; its request is nobody's any more

    def _send_token(self, stream: _Stream) -> None:
        event = self._events[len(stream.sent_ns) % len(self._events)]
        stream.sent_ns.append(time.monotonic_ns())
        stream.socket.send(event)
        if len(stream.sent_ns) < stream.tokens:
            self._schedule(stream)
            return
        stream.socket.send(END)
        self.sent.append(Sent(stream.request_index, stream.received_ns, stream.sent_ns))


def _event(tokens: int) -> bytes:
    """A transfer chunk with one event, as long as real servers make them."""
    event = {
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "text_completion",
        "created": 1700000000,
        "model": "pacer",
        "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": None}],
        "usage": {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": tokens + 8},
    }
    payload = b"data: " + msgspec.json.encode(event) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def main(argv: Sequence[str] | None = None) -> int:
    """Listen on 127.0.0.1, say where on stdout, serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft-ms", type=float, default=20.0)
    parser.add_argument("--itl-ms", type=float, default=20.0)
    parser.add_argument("--stamps", type=Path, required=True)
    chosen = parser.parse_args(argv)
    allow_many_sockets()
    with socket.create_server(("127.0.0.1", chosen.port), backlog=4096) as listener:
        pacer = Pacer(listener, ttft_ms=chosen.ttft_ms, itl_ms=chosen.itl_ms)
        signal.signal(signal.SIGTERM, lambda *_: pacer.stop())
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        pacer.serve()
    chosen.stamps.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in pacer.sent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
