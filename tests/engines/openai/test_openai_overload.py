"""More requests than there are slots: refused, in turn, in time, and nobody holds up the others."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai_fakes import ScriptedEngine, http_get, http_post, serving, until

from enginebench_openai.access import Access
from enginebench_openai.limits import Limits

pytestmark = pytest.mark.timeout(60)
ASK = {"model": "fake", "prompt": "abc", "max_tokens": 4}


class NarrowEngine(ScriptedEngine):
    """One slot, which it keeps to."""

    slots = 1

    def step(self):
        first = dict(list(self._running.items())[:1])
        self._running, rest = first, dict(list(self._running.items())[1:])
        try:
            return super().step()
        finally:
            self._running |= rest


def post(server, *, key: str | None = None, **more):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return http_post(
        f"{server.url}/v1/completions", json={**ASK, **more}, headers=headers, timeout=30
    )


def metric(server, name: str, key: str | None = None) -> float:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    text = http_get(f"{server.url}/metrics", headers=headers).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"enginebench:{name} ")]
    return float(line.split()[1])


def test_a_full_queue_refuses_with_429_and_serves_the_rest():
    engine = NarrowEngine()
    engine.gate.clear()
    with serving(engine, limits=Limits(max_queue=8)) as server, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(post, server) for _ in range(16)]
        # one runs, one is ahead of it; of eight places a client may hold as many as it leaves free
        until(lambda: metric(server, "requests_refused_total") == 10)
        assert len(engine.added) == 2
        engine.gate.set()
        answers = [one.result() for one in asked]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 10
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert sum(answer.status_code == 200 for answer in answers) == 6
        assert post(server).status_code == 200


def test_a_request_larger_than_the_queue_can_never_be_taken():
    with serving(NarrowEngine(), limits=Limits(max_queue=2)) as server:
        answer = post(server, prompt=["a"] * 9)
        assert answer.status_code == 400 and "at most 2" in answer.json()["error"]["message"]
        assert post(server, prompt=["a", "b", "c"]).status_code == 200


def test_each_key_has_its_turn():
    engine = NarrowEngine()
    engine.gate.clear()
    access = Access(api_keys=("greedy", "modest"))
    with serving(engine, access=access) as server, ThreadPoolExecutor(16) as pool:
        greedy = [pool.submit(post, server, key="greedy", prompt=f"g{n}") for n in range(8)]
        until(lambda: metric(server, "requests_in_flight", "greedy") == 8)
        modest = pool.submit(post, server, key="modest", prompt="m")
        until(lambda: metric(server, "requests_in_flight", "greedy") == 9)
        engine.gate.set()
        assert modest.result().status_code == 200
        assert all(one.result().status_code == 200 for one in greedy)
        order = [bytes(request.prompt).decode() for request in engine.added]
        assert order.index("m") == 2  # behind the two that the engine had already


def test_who_steps_back_waits_for_the_others():
    engine = NarrowEngine()
    engine.gate.clear()
    with serving(engine) as server, ThreadPoolExecutor(8) as pool:
        asked = []
        for prompt, priority in (("x", 0), ("y", 0), ("batch", 7), ("now", 0)):
            asked.append(pool.submit(post, server, prompt=prompt, priority=priority))
            until(lambda: metric(server, "requests_in_flight") == len(asked))
        engine.gate.set()
        assert all(one.result().status_code == 200 for one in asked)
        order = [bytes(request.prompt).decode() for request in engine.added]
        assert order == ["x", "y", "now", "batch"]
        wrong = post(server, priority=-1)
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "priority"


def test_nobody_waits_longer_for_a_slot_than_the_limit():
    engine = NarrowEngine()
    engine.gate.clear()
    limits = Limits(queue_timeout_s=0.2)
    with serving(engine, limits=limits) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(post, server) for _ in range(2)]
        until(lambda: len(engine.added) == 2)
        late = post(server, stream=True)
        assert late.status_code == 503 and late.json()["error"]["code"] == "overloaded"
        assert "retry-after" in late.headers
        engine.gate.set()
        assert all(one.result().status_code == 200 for one in asked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_ends_with_an_error(stream):
    engine = ScriptedEngine(step_s=0.02)
    with serving(engine, limits=Limits(request_timeout_s=0.3)) as server:
        answer = post(server, max_tokens=60, stream=stream)
        assert '"code":"timeout"' in answer.text and "0.3 s" in answer.text
        assert answer.status_code == (200 if stream else 504)
        until(lambda: not engine.has_work())
        assert post(server).status_code == 200


def test_a_reader_that_stands_still_is_hung_up_on():
    engine = ScriptedEngine(lambda request: ((97,) * 4096 for _ in range(10**6)))
    engine.context_length = 10**9
    with serving(engine, limits=Limits(stall_timeout_s=0.3)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # soon full
            slow.connect((host, int(port)))
            raw = b'{"model":"fake","prompt":"a","max_tokens":30000000,"stream":true}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
            slow.sendall(head.encode() + raw)
            until(lambda: engine.aborted)
        assert not engine.has_work()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", b""),
        (b"POST /v1/completions HTTP/1.1\r\nHo", b""),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", b"408"),
    ],
)
def test_a_request_that_does_not_go_on_is_hung_up_on(sent, said):
    with serving(ScriptedEngine(), limits=Limits(stall_timeout_s=0.2)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(sent)
            answer = b""
            while part := slow.recv(4096):
                answer += part
        assert said in answer and bool(said) == bool(answer)


def test_a_client_that_leaves_the_queue_is_forgotten():
    engine = NarrowEngine()
    engine.gate.clear()
    with serving(engine) as server, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(post, server) for _ in range(2)]
        until(lambda: len(engine.added) == 2)
        host, port = server.url.removeprefix("http://").split(":")
        raw = b'{"model":"fake","prompt":"gone","max_tokens":9}'
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(head.encode() + raw)
            until(lambda: metric(server, "requests_in_flight") == 3)
        until(lambda: metric(server, "requests_in_flight") == 2)
        engine.gate.set()
        assert all(one.result().status_code == 200 for one in asked)
        assert tuple(b"gone") not in [request.prompt for request in engine.added]


def test_what_waits_when_the_server_is_told_to_stop_is_still_served():
    engine = NarrowEngine()
    engine.gate.clear()
    with serving(engine) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(post, server) for _ in range(6)]
        until(lambda: metric(server, "requests_in_flight") == 6)
        server.process.stop()
        engine.gate.set()
        assert all(one.result().status_code == 200 for one in asked)


def test_time_in_the_queue_is_a_metric():
    with serving(ScriptedEngine()) as server:
        before = time.perf_counter()
        assert post(server).status_code == 200
        assert metric(server, "queue_seconds_count") == 1
        assert metric(server, "queue_seconds_sum") < time.perf_counter() - before
