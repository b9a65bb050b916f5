"""One HTTP/1.1 exchange: response bytes in, (arrival, payload) pairs out, and when it is whole.

`take` runs in the timed path, once for each read, so it does only what must be known at once: where
the transfer chunks end. What the payloads mean (SSE events, JSON) is worked out in `sse.py` when
the exchange is over. Knows no socket and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Exchange", "HttpError"]


class HttpError(Exception):
    """The server broke the connection or the protocol."""


@dataclass(slots=True)
class Exchange:
    """What came back: `body` holds (arrival in monotonic ns, payload) pairs.

    The payloads are without transfer coding. A transfer chunk that came in several reads is
    stamped with the read that completed it.
    """

    sent_ns: int = 0
    end_ns: int = 0
    status: int | None = None
    keep_alive: bool = True
    body: list[tuple[int, bytes]] = field(default_factory=list)
    _head: bytes = b""
    _chunked: bool = False
    _missing: int | None = None  # of a body with Content-Length
    _partial: bytes = b""  # the beginning of a transfer chunk that is not complete

    @property
    def begun(self) -> bool:
        """Whether the server has answered anything at all."""
        return self.status is not None or bool(self._head)

    def take(self, stamp: int, data: bytes) -> bool:
        """Add what one read gave; True: the answer is whole. Raises HttpError for nonsense."""
        if not data:
            self._end_of_file(stamp)
            return True
        if self.status is None:
            data = self._take_head(data)
        if self.status is not None and self._take_body(stamp, data):
            self.end_ns = stamp
            return True
        return False

    def _take_body(self, stamp: int, data: bytes) -> bool:
        if self._chunked:
            return self._take_chunk(stamp, data) if not self._partial else self._cut(stamp, data)
        if data:
            self.body.append((stamp, data))
        if self._missing is not None:
            self._missing -= len(data)
        return self._missing is not None and self._missing <= 0

    def _take_chunk(self, stamp: int, data: bytes) -> bool:
        """The usual case, made cheap: one read holds just one whole transfer chunk."""
        line_end = data.find(b"\r\n")
        try:
            size = int(data[:line_end], 16)
        except ValueError:
            return self._cut(stamp, data)
        if 0 < line_end and 0 < size and line_end + size + 4 == len(data):
            self.body.append((stamp, data[line_end + 2 : -2]))
            return False
        return self._cut(stamp, data)

    def _cut(self, stamp: int, data: bytes) -> bool:
        """Cut any bytes into transfer chunks; True at the last chunk and its trailers."""
        data, start = self._partial + data, 0
        while (line_end := data.find(b"\r\n", start)) >= 0:
            size = _size(data[start:line_end])
            if size == 0:  # trailers, if any, then an empty line
                if data.find(b"\r\n\r\n", line_end) >= 0:
                    return True
                break
            end = line_end + size + 4
            if len(data) < end:
                break
            self.body.append((stamp, data[line_end + 2 : end - 2]))
            start = end
        self._partial = data[start:]
        return False

    def _take_head(self, data: bytes) -> bytes:
        """What stands behind the head, once that is complete."""
        head, found, rest = (self._head + data).partition(b"\r\n\r\n")
        if not found:
            self._head = head
            return b""
        status_line, *lines = head.split(b"\r\n")
        try:
            self.status = int(status_line.split(b" ", 2)[1])
        except (IndexError, ValueError):
            raise HttpError(f"not an HTTP answer: {status_line[:80]!r}") from None
        self._read_fields(lines)
        return rest

    def _read_fields(self, lines: list[bytes]) -> None:
        fields = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        self._chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        size = fields.get(b"content-length", b"")
        self._missing = int(size) if size.isdigit() and not self._chunked else None
        self.keep_alive = fields.get(b"connection") != b"close"

    def _end_of_file(self, stamp: int) -> None:
        """The end of an answer that has no other; an error in any other."""
        self.end_ns, self.keep_alive = stamp, False
        if self.status is None:
            raise HttpError("the server closed the connection before it answered")
        if self._chunked or self._missing is not None:
            raise HttpError("the server closed the connection in the middle of an answer")


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits.isalnum():  # int() would take a sign
        raise HttpError(f"bad chunk size {line[:40]!r}")
    try:
        return int(digits, 16)
    except ValueError:
        raise HttpError(f"bad chunk size {line[:40]!r}") from None
