"""The pacer, the real driver against it, and what is made of the difference."""

import socket
import threading

import msgspec
import numpy as np
import pytest

from enginebench.drive import DriveDone
from enginebench.errors import DriverError
from enginebench.types import RequestRecord
from enginebench_workloads.calibration import Outcome, Trial, _compare, play
from enginebench_workloads.exchange import Exchange
from enginebench_workloads.pacer import Pacer, Sent
from enginebench_workloads.sse import read_answer


def ask(connection: socket.socket, prompt: list[int], tokens: int) -> Exchange:
    body = msgspec.json.encode({"prompt": prompt, "max_tokens": tokens, "stream": True})
    head = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body[:5])
    connection.sendall(body[5:])
    exchange, stamp = Exchange(), 0
    while not exchange.take(stamp, connection.recv(1000)):
        stamp += 1
    return exchange


def test_the_pacer_keeps_its_cadence_and_its_notes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pacer = Pacer(listener, ttft_ms=30, itl_ms=10)
        serving = threading.Thread(target=pacer.serve)
        serving.start()
        with socket.create_connection(listener.getsockname()) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            answers = [read_answer(ask(connection, [7 + i, 1], 5)) for i in range(2)]
        pacer.stop()
        serving.join(5)
    for answer in answers:
        assert (answer.error, answer.completion_tokens, sum(answer.chunk_tokens)) == (None, 5, 5)
        assert "".join(answer.texts) == " word" * 5 and answer.token_count_source == "chunk_usage"
    assert [sent.request_index for sent in pacer.sent] == [7, 8]
    for sent in pacer.sent:
        due_ns = [sent.received_ns + 30_000_000 + k * 10_000_000 for k in range(5)]
        assert all(
            0 <= at - due < 100_000_000 for at, due in zip(sent.sent_ns, due_ns, strict=True)
        )


def test_the_driver_stamps_every_event_after_it_was_sent_and_before_the_next() -> None:
    trial = Trial(streams=3, itl_ms=30, ttft_ms=10, tokens=8, seconds=0.5)
    outcome = play(trial)
    assert trial.rounds == 2
    assert outcome.late_s.shape == (3 * 2 * 8,)
    assert outcome.itl_errors_s.shape == (3 * 2 * 7,) and outcome.ttft_errors_s.shape == (6,)
    assert outcome.late_s.min() > 0
    assert np.median(outcome.late_s) < 0.03
    assert 0.4 < outcome.span_s < 5 and 0 < outcome.cpu_share < 1
    assert outcome.cpu_s_per_event * outcome.events_per_s == pytest.approx(outcome.cpu_share)


def record(index: int, chunk_ns: tuple[int, ...], error: str | None = None) -> RequestRecord:
    return RequestRecord(
        index, 0, "measure", 0, 100, 900, chunk_ns, (1,) * len(chunk_ns), "usage", error=error
    )


DONE = DriveDone(1, 2, client_cpu_s=4e-7, max_loop_lag_s=0.0)


def test_errors_are_what_lies_between_sending_and_stamp() -> None:
    sent = {0: Sent(0, 150, (200, 300, 400)), 1: Sent(1, 150, (250, 350))}
    outcome = _compare([record(0, (203, 310, 402)), record(1, (251, 352))], sent, DONE)
    assert outcome.late_s * 1e9 == pytest.approx([3, 10, 2, 1, 2])
    assert outcome.ttft_errors_s * 1e9 == pytest.approx([3, 1])
    assert outcome.itl_errors_s * 1e9 == pytest.approx([7, -8, 1])
    assert outcome.itl_error_s(100) * 1e9 == pytest.approx(8)
    assert outcome.ttft_error_s(50) * 1e9 == pytest.approx(2)
    assert outcome.span_s * 1e9 == pytest.approx(800)
    assert outcome.cpu_share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (record(0, (1, 2, 3), "reset"), "request 0 was lost or cut short: reset"),
        (record(0, (1, 2)), "fewer chunks than were sent"),
        (record(5, (1, 2, 3)), "request 5 was lost"),
    ],
)
def test_whatever_is_lost_is_an_error(made: RequestRecord, words: str) -> None:
    with pytest.raises(DriverError, match=words):
        _compare([made], {0: Sent(0, 0, (1, 2, 3))}, DONE)


def test_outcomes_are_of_one_driver() -> None:
    assert Outcome(np.ones(4), np.ones(3), np.ones(1), 2.0, DONE).events_per_s == 2.0
