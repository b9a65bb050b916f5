"""The reader of answers against every way in which bytes can be cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_workloads.exchange import Exchange, HttpError

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(p % len(data) for p in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def receive(pieces: list[bytes]) -> Exchange:
    """Piece i arrives at time i + 1; the end of file, where it is reached, behind the last."""
    exchange = Exchange()
    for stamp, piece in enumerate([*pieces, b""], 1):
        if exchange.take(stamp, piece):
            break
    return exchange


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_a_chunked_body_survives_any_cutting(payloads: list[bytes], places: list[int]) -> None:
    data = HEAD + b"".join(map(chunk, payloads)) + b"0\r\n\r\n"
    pieces = cut(data, places)
    exchange = receive(pieces)
    assert exchange.status == 200 and exchange.keep_alive
    assert [part for _, part in exchange.body] == payloads
    stamps = [stamp for stamp, _ in exchange.body]
    assert stamps == sorted(stamps) and exchange.end_ns == len(pieces) >= stamps[-1]


def test_a_chunk_is_stamped_with_the_read_that_completed_it() -> None:
    exchange = receive([HEAD, b"5\r\nab", b"cde\r\n", b"0\r\n\r\n"])
    assert exchange.body == [(3, b"abcde")]


def test_a_payload_that_looks_like_the_end_is_not_the_end() -> None:
    trap = b"x\r\n0\r\n\r\n"
    exchange = receive([HEAD, chunk(trap)[:-2], b"\r\n", chunk(b"more"), b"0\r\n\r\n"])
    assert exchange.body == [(3, trap), (4, b"more")]


@pytest.mark.parametrize("last", [b"0;x=1\r\n\r\n", b"000\r\nTrailer: 0\r\nMore: x\r\n\r\n"])
def test_extensions_and_trailers_are_passed_over(last: bytes) -> None:
    for pieces in ([HEAD, b"3;a=b\r\nabc\r\n", last], [HEAD + b"03\r\nabc\r\n" + last]):
        exchange = receive(pieces)
        assert [part for _, part in exchange.body] == [b"abc"] and exchange.keep_alive


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_content_length(places: list[int]) -> None:
    data = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    exchange = receive(cut(data, places))
    assert exchange.status == 404 and not exchange.keep_alive
    assert b"".join(part for _, part in exchange.body) == b"hello"


def test_an_empty_body_is_whole_with_its_head() -> None:
    exchange = receive([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
    assert exchange.end_ns == 1 and exchange.body == [] and exchange.keep_alive


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    exchange = receive([b"HTTP/1.1 200 OK\r\n\r\nab", b"c"])
    assert exchange.body == [(1, b"ab"), (2, b"c")]
    assert exchange.end_ns == 3 and not exchange.keep_alive


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 200"],
        [b"garbage\r\n\r\n"],
        [HEAD + chunk(b"abc")],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"],
        [HEAD + b"zz\r\nabc\r\n0\r\n\r\n"],
        [HEAD + b"-3\r\nabc\r\n0\r\n\r\n"],
        [HEAD, b"00003?"],
    ],
)
def test_broken_answers_raise(pieces: list[bytes]) -> None:
    with pytest.raises(HttpError):
        receive(pieces)


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6))
def test_garbage_raises_nothing_else(pieces: list[bytes]) -> None:
    try:
        exchange = receive([HEAD, *pieces])
    except HttpError:
        return
    assert exchange.end_ns > 0
