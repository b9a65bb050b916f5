from collections.abc import Callable

import pytest

from enginebench_workloads.connection import Address, Connection
from enginebench_workloads.exchange import Exchange, HttpError

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"


class CannedSocket:
    """Gives the pieces in order, then end of file."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.sent, self.closed = list(pieces), b"", False

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def receive(self, take: Callable[[int, bytes], bool]) -> None:
        while not take(1, self.pieces.pop(0) if self.pieces else b""):
            pass

    def close(self) -> None:
        self.closed = True


def connection(*sockets: CannedSocket) -> Connection:
    made = iter(sockets)
    return Connection(lambda: next(made))


def test_a_connection_is_kept_until_the_server_closes_it() -> None:
    socket = CannedSocket(ANSWER, ANSWER.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
    kept = connection(socket)
    kept.exchange(b"GET", Exchange())
    assert not socket.closed
    kept.exchange(b"GET", Exchange())
    assert socket.closed and socket.sent == b"GETGET"


def test_a_kept_connection_that_died_is_replaced_once() -> None:
    sockets = [CannedSocket(ANSWER), CannedSocket(ANSWER)]
    kept = connection(*sockets)
    for _ in range(2):
        exchange = Exchange()
        kept.exchange(b"GET", exchange)
        assert exchange.status == 200 and exchange.keep_alive
    assert sockets[0].closed and not sockets[1].closed and sockets[1].sent == b"GET"


@pytest.mark.parametrize("pieces", [(), (ANSWER[:-1],)])
def test_a_new_connection_that_dies_is_an_error(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(HttpError):
        connection(CannedSocket(*pieces), CannedSocket(ANSWER)).exchange(b"GET", Exchange())


def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    kept = connection(CannedSocket(ANSWER, b"HTTP/1.1 2"), CannedSocket(ANSWER))
    kept.exchange(b"GET", Exchange())
    with pytest.raises(HttpError):
        kept.exchange(b"GET", Exchange())


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
