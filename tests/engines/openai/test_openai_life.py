"""Disconnects, deaths and shutdowns."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest
from openai_fakes import Running, ScriptedEngine, http_get, http_post, serving, until

from enginebench.errors import ModelError

pytestmark = pytest.mark.timeout(60)
HERE = Path(__file__).parent
ENDLESS = {"model": "fake", "prompt": "abc", "max_tokens": 60}


class Client:
    """A raw connection that has sent one request."""

    def __init__(self, url: str, **body: object) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        raw = json.dumps({**ENDLESS, **body}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        self.socket.sendall(head.encode() + raw)

    def read_some(self) -> bytes:
        return self.socket.recv(65536)

    def read_all(self) -> bytes:
        data = b""
        with self.socket:
            while part := self.socket.recv(65536):
                data += part
        return data

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize("body", [{"stream": True}, {}, {"prompt": ["a", "b"], "stream": True}])
def test_a_client_that_leaves_frees_the_engine_within_a_step_or_two(body):
    engine = ScriptedEngine(step_s=0.05)
    with serving(engine) as server:
        client = Client(server.url, **body)
        until(lambda: engine.steps >= 3)
        client.close()
        before = engine.steps
        until(lambda: engine.aborted)
        assert engine.steps <= before + 2 and not engine.has_work()
        metrics = http_get(f"{server.url}/metrics").text
        count = len(body.get("prompt", [1])) if isinstance(body.get("prompt"), list) else 1
        assert f'requests_finished_total{{reason="abort"}} {count}.0' in metrics
        assert "requests_in_flight 0.0" in metrics


def test_a_client_that_leaves_before_the_first_token():
    engine = ScriptedEngine()
    engine.gate.clear()
    with serving(engine) as server:
        client = Client(server.url, stream=True)
        until(lambda: engine.added)
        client.close()
        until(lambda: engine.aborted)


def test_a_client_that_leaves_in_the_middle_of_its_request(shared):
    host, port = shared.url.removeprefix("http://").split(":")
    half = socket.create_connection((host, int(port)))
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    half.close()
    assert http_get(f"{shared.url}/health").status_code == 200


def test_a_reader_that_stands_still_holds_up_nobody():
    engine = ScriptedEngine(lambda request: ((97,) * 4096 for _ in range(10**6)))
    engine.context_length = 10**9
    with serving(engine) as server:
        slow = Client(server.url, stream=True, max_tokens=3 * 10**7)
        until(lambda: engine.steps > 3)
        answer = http_post(f"{server.url}/v1/completions", json=ENDLESS, timeout=20)
        assert answer.json()["usage"]["completion_tokens"] == 60
        slow.close()
        until(lambda: not engine.has_work())


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_is_seen_by_everybody(stream):
    engine = ScriptedEngine(step_s=0.02)
    server = Running(engine)
    server.start()
    client = Client(server.url, stream=stream)
    until(lambda: engine.steps >= 3)
    engine.raises = RuntimeError("boom")
    answer = b""
    while b"engine_error" not in answer:
        answer += client.read_some()
    if stream:
        assert answer.startswith(b"HTTP/1.1 200") and b"[DONE]" not in answer
    else:
        assert answer.startswith(b"HTTP/1.1 503")
    health = http_get(f"{server.url}/health")
    assert (health.status_code, health.json()) == (503, {"status": "dead"})
    late = http_post(f"{server.url}/v1/completions", json=ENDLESS)
    assert late.status_code == 503 and late.json()["error"]["code"] == "engine_dead"
    client.close()
    assert server.join() == 1 and engine.closed


def test_while_the_engine_is_built_requests_are_told_to_wait():
    built = threading.Event()

    def build():
        built.wait(20)
        return ScriptedEngine()

    server = Running(build)
    server._thread.start()
    until(lambda: http_get(f"{server.url}/health").json() == {"status": "loading"})
    early = http_post(f"{server.url}/v1/completions", json=ENDLESS)
    assert early.status_code == 503 and early.headers["retry-after"] == "1"
    assert http_get(f"{server.url}/v1/models").json()["data"][0]["max_model_len"] is None
    built.set()
    until(lambda: http_get(f"{server.url}/health").status_code == 200)
    server.process.stop()
    assert server.join() == 0


def test_stopping_finishes_what_is_in_flight():
    engine = ScriptedEngine(step_s=0.02)
    server = Running(engine)
    server.start()
    client = Client(server.url, max_tokens=20)
    until(lambda: engine.steps >= 2)
    server.process.stop()
    answer = client.read_all()
    assert server.join() == 0 and engine.closed
    assert b'"completion_tokens":20' in answer
    with pytest.raises(httpx.ConnectError):
        http_get(f"{server.url}/health")


def test_what_does_not_end_in_time_is_told_so():
    engine = ScriptedEngine()
    server = Running(engine, drain_s=0.3)
    server.start()
    engine.gate.clear()
    client = Client(server.url)
    until(lambda: engine.added)
    server.process.stop()
    assert b"shutting down" in client.read_all()
    assert server.join() == 0


# ---------------------------------------------------------------- the real process


# for what may differ between an engine in a process and one in a thread of its own
in_process_and_thread = pytest.mark.parametrize(
    "serve", ["--engine-process", "--no-engine-process"], indirect=True
)


@pytest.fixture
def serve(request):
    """Starts a server; its engine is in a thread unless the test says otherwise."""
    flag = getattr(request, "param", "--no-engine-process")

    def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(HERE / "serve_fake.py"), flag, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    return start


@pytest.fixture
def started(serve):
    processes = []

    def start(*arguments: str, **env: str) -> tuple[subprocess.Popen[str], str]:
        process = serve("--model", "fake", "--port", "0", "--engine-restarts=0", *arguments, **env)
        processes.append(process)
        line = process.stdout.readline()
        assert line.startswith("ready on http://127.0.0.1:") and line.endswith(" s\n"), line
        return process, line.split()[2]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@in_process_and_thread
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_code_0(started, number):
    process, url = started("--step-ms=20")
    client = Client(url, max_tokens=20, stream=True)
    first = client.read_some()
    process.send_signal(number)
    assert (first + client.read_all()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert process.wait(20) == 0


@in_process_and_thread
def test_a_second_signal_waits_for_nobody(started):
    process, url = started("--step-ms=200")
    client = Client(url, stream=True)
    client.read_some()
    process.send_signal(signal.SIGINT)
    until(lambda: not _listens(url))
    process.send_signal(signal.SIGINT)
    assert b"shutting down" in client.read_all()
    assert process.wait(20) == 0


def _listens(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@in_process_and_thread
def test_a_dead_engine_ends_it_with_code_1_and_its_traceback(started):
    process, url = started()
    answer = http_post(f"{url}/v1/completions", json={**ENDLESS, "prompt": "die"})
    assert answer.status_code == 503
    assert process.wait(20) == 1
    assert "RuntimeError: this engine dies of a prompt" in process.stderr.read()


def test_an_engine_that_is_killed_ends_it_with_code_1(started):
    process, url = started("--engine-process", "--step-ms=20")
    client = Client(url, stream=True)
    client.read_some()
    (nursery,) = psutil.Process(process.pid).children()
    (child,) = nursery.children()
    child.kill()
    assert b"the engine has died" in client.read_all()
    assert process.wait(20) == 1
    assert "was it killed?" in process.stderr.read()


def test_an_engine_that_is_killed_is_built_again(started):
    process, url = started("--engine-process", "--engine-restarts=2", "--step-ms=5")
    client = Client(url, stream=True)
    client.read_some()
    (nursery,) = psutil.Process(process.pid).children()
    (child,) = nursery.children()
    child.kill()
    answer = b""
    while b"the engine has died" not in answer:
        answer += client.read_some()
    client.close()
    assert http_get(f"{url}/health").json() == {"status": "restarting"}
    until(lambda: http_get(f"{url}/health").status_code == 200)
    assert http_post(f"{url}/v1/completions", json=ENDLESS).status_code == 200
    process.terminate()
    assert process.wait(20) == 0


def test_a_replica_that_is_killed_takes_only_its_own_requests(started):
    arguments = ("--engine-process", "--engine-restarts=2", "--step-ms=20", "--replicas=2")
    process, url = started(*arguments)
    clients = [Client(url, stream=True) for _ in range(2)]
    answers = [client.read_some() for client in clients]
    (nursery,) = psutil.Process(process.pid).children()
    first, _ = nursery.children()
    first.kill()
    for index, client in enumerate(clients):
        while b"[DONE]" not in answers[index] and b"has died" not in answers[index]:
            answers[index] += client.read_some()
        client.close()
    assert sorted(b"the engine has died" in answer for answer in answers) == [False, True]
    assert http_get(f"{url}/health").status_code == 200
    assert http_post(f"{url}/v1/completions", json=ENDLESS).status_code == 200
    until(lambda: len(nursery.children()) == 2)
    process.terminate()
    assert process.wait(20) == 0


def test_replicas_die_together_where_dying_is_a_result(started):
    process, _ = started("--engine-process", "--step-ms=20", "--replicas=2")
    (nursery,) = psutil.Process(process.pid).children()
    nursery.children()[0].kill()
    assert process.wait(20) == 1
    assert "was it killed?" in process.stderr.read()


def test_the_engine_ends_with_a_server_that_is_killed(started):
    process, _ = started("--engine-process")
    (nursery,) = psutil.Process(process.pid).children()
    (child,) = nursery.children()
    process.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_port_in_use_is_one_line_and_code_2(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = serve("--model", "fake", "--port", str(port))
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.count("\n") == 1 and f"127.0.0.1:{port}" in errors and "--port 0" in errors


@in_process_and_thread
def test_an_engine_that_cannot_be_built_is_one_line_and_code_2(serve):
    process = serve("--model", "fake", "--port", "0", "--step-ms=-1")
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (2, "")
    assert errors == "error: step_ms must be 0 or more; got -1.0\n"


@in_process_and_thread
def test_an_engine_defect_while_building_is_code_1_and_a_traceback(serve):
    process = serve("--model", "fake", "--port", "0", "--broken")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and "ZeroDivisionError" in errors


@in_process_and_thread
def test_a_signal_while_the_engine_is_built_ends_it_at_once(serve):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = serve("--model", "fake", "--port", str(port), "--build-s=60")
    try:
        assert process.stderr.readline() == "building\n"
        assert http_get(f"http://127.0.0.1:{port}/health").status_code == 503
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_key_from_the_environment_and_from_a_file(started, tmp_path):
    file = tmp_path / "key"
    file.write_text("sesame\n")
    key = {"Authorization": "Bearer sesame"}
    for _, url in (
        started(ENGINEBENCH_API_KEY="sesame"),
        started("--api-key-file", str(file), ENGINEBENCH_API_KEY="other"),
    ):
        assert http_get(f"{url}/v1/models").status_code == 401
        assert http_get(f"{url}/v1/models", headers=key).status_code == 200


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_key_file_without_a_key_is_refused(serve, tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    process = serve("--model", "fake", "--port", "0", "--api-key-file", str(file))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and str(file) in errors


def test_a_bench_error_leaves_run_as_it_is():
    def build():
        raise ModelError("no such weights")

    server = Running(build)
    with pytest.raises(ModelError):
        server.process.run()
