import io
import json

import gevent

from enginebench_workloads.exchange import Exchange
from enginebench_workloads.recorder import Finished, Recorder


def finished(index: int, events: int, error: str | None = None) -> Finished:
    exchange = Exchange(sent_ns=5, end_ns=9, status=200)
    event = {"choices": [{"text": "a", "finish_reason": "length"}]}
    payload = b"data: " + json.dumps(event).encode() + b"\n\n"
    exchange.body = [(7 + i, payload) for i in range(events)]
    return Finished(index, 3, "measure", 4, exchange, error)


def written(sink: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_records_are_written_when_the_loop_is_idle_and_not_before() -> None:
    sink = io.BytesIO()
    recorder = Recorder(sink)
    recorder.add(finished(1, events=2))
    assert (recorder.requests, recorder.tokens, recorder.unread_pieces) == (1, 0, 2)
    assert written(sink) == []
    gevent.sleep(0.02)
    (record,) = written(sink)
    assert record["chunk_ns"] == [7, 8] and record["user"] == 3
    assert (record["scheduled_ns"], record["sent_ns"], record["end_ns"]) == (4, 5, 9)
    assert (recorder.tokens, recorder.errors, recorder.unread_pieces) == (2, 0, 0)


def test_long_answers_are_parsed_in_slices_between_which_others_run() -> None:
    sink, turns = io.BytesIO(), []
    recorder = Recorder(sink)
    recorder.add(finished(1, events=20_000))

    def take_turns() -> None:
        while not sink.getvalue():
            turns.append(1)
            gevent.sleep(0.0002)

    gevent.spawn(take_turns).join(20)
    assert len(turns) > 20
    assert recorder.tokens == 20_000


def test_drain_writes_everything_in_order_and_a_later_one_still_starts() -> None:
    sink = io.BytesIO()
    recorder = Recorder(sink)
    for index in range(5):
        recorder.add(finished(index, events=3, error="cut off" if index == 2 else None))
    recorder.drain()
    records = written(sink)
    assert [record["request_index"] for record in records] == [0, 1, 2, 3, 4]
    assert [record["error"] for record in records] == [None, None, "cut off", None, None]
    assert recorder.errors == 1
    recorder.add(finished(9, events=1))
    gevent.sleep(0.02)
    assert len(written(sink)) == 6


def test_what_has_waited_for_a_second_is_forced_through() -> None:
    sink = io.BytesIO()
    recorder = Recorder(sink)
    recorder.add(finished(1, events=1))  # it ended long ago, in monotonic ns
    recorder.catch_up()
    assert len(written(sink)) == 1
