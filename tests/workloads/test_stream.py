"""The exchange parser against every way in which bytes can be cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_workloads.stream import (
    Address,
    Connection,
    Exchange,
    HttpError,
    decode_body,
)

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"


class CannedSocket:
    """Gives the pieces in order, then end of file."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.sent, self.closed = list(pieces), b"", False

    def sendall(self, data: bytes, /) -> None:
        self.sent += data

    def recv(self, size: int, /) -> bytes:
        assert size >= max(map(len, self.pieces), default=0)
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(p % len(data) for p in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def receive(pieces: list[bytes]) -> tuple[Exchange, CannedSocket]:
    socket, exchange = CannedSocket(pieces), Exchange()
    Connection(Address.parse("http://h:1"), lambda _: socket).exchange(b"GET", exchange)
    return exchange, socket


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_a_chunked_body_survives_any_cutting(payloads: list[bytes], places: list[int]) -> None:
    data = HEAD + b"".join(map(chunk, payloads)) + b"0\r\n\r\n"
    exchange, socket = receive(cut(data, places))
    body, whole = decode_body(exchange)
    assert whole and exchange.status == 200 and not socket.closed
    assert [part for _, part in body] == payloads
    stamps = [stamp for stamp, _ in body]
    assert stamps == sorted(stamps) and exchange.end_ns >= stamps[-1] >= exchange.sent_ns


def test_a_chunk_is_stamped_with_the_read_that_completed_it() -> None:
    exchange, _ = receive([HEAD, b"5\r\nab", b"cde\r\n", b"0\r\n\r\n"])
    (stamp, payload), *rest = decode_body(exchange)[0]
    assert payload == b"abcde" and not rest
    assert stamp == exchange.parts[2][0]


def test_a_payload_that_looks_like_the_end_is_not_the_end() -> None:
    trap = b"x\r\n0\r\n\r\n"
    data = [HEAD, chunk(trap)[:-2], b"\r\n", chunk(b"more"), b"0\r\n\r\n"]
    exchange, _ = receive(data)
    assert [part for _, part in decode_body(exchange)[0]] == [trap, b"more"]


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_content_length(places: list[int]) -> None:
    data = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    exchange, socket = receive(cut(data, places))
    assert exchange.status == 404 and socket.closed
    assert b"".join(part for _, part in decode_body(exchange)[0]) == b"hello"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 200"],
        [b"garbage\r\n\r\n"],
        [HEAD + chunk(b"abc")],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"],
        [HEAD + b"zz\r\nabc\r\n0\r\n\r\n"],
    ],
)
def test_broken_answers_raise(pieces: list[bytes]) -> None:
    with pytest.raises(HttpError):
        receive(pieces)


def test_a_kept_connection_that_died_is_replaced_once() -> None:
    answer = HEAD + chunk(b"a") + b"0\r\n\r\n"
    sockets = [CannedSocket([answer]), CannedSocket([answer])]
    made = iter(sockets)
    connection = Connection(Address.parse("http://h:1"), lambda _: next(made))
    for _ in range(2):
        exchange = Exchange()
        connection.exchange(b"GET", exchange)
        assert exchange.status == 200
    assert sockets[0].closed and sockets[1].sent == b"GET"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", Address("127.0.0.1", 8000, False, "")),
        ("https://example.org/api/", Address("example.org", 443, True, "/api")),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_a_bad_address_names_the_value(url: str) -> None:
    with pytest.raises(ValueError, match=r"base URL"):
        Address.parse(url)
