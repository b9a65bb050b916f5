"""The driver as a process, against a small server whose timing is known."""

import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enginebench.drive import DriveDone, DriveEvent, DriveJob, DriveProgress
from enginebench.types import Budget, Load, Message, Request, RequestRecord

FIRST_S, GAP_S, TOKENS = 0.05, 0.02, 5
BODY = {"temperature": 0.0, "ignore_eos": True}


class Server(ThreadingHTTPServer):
    """Streams TOKENS tokens; counts requests; does what `mode` says."""

    daemon_threads = True
    mode = "good"
    answered = 0
    bodies: list[dict[str, object]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if self.server.mode == "strict" and "ignore_eos" in body:
            return self.refuse(400, "unknown field 'ignore_eos'")
        if self.server.mode == "overloaded":
            return self.refuse(503, "queue is full")
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.stream(body["max_tokens"])
        return None

    def refuse(self, status: int, message: str) -> None:
        payload = json.dumps({"error": {"message": message}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def stream(self, count: int) -> None:
        time.sleep(FIRST_S)
        for i in range(count):
            if self.server.mode == "dying" and i == 2:
                self.close_connection = True
                return
            if self.server.mode == "hung" and i == 1:
                time.sleep(30)
            finish = "length" if i == count - 1 else None
            usage = {"prompt_tokens": 3, "completion_tokens": i + 1}
            self.event({"choices": [{"text": "a", "finish_reason": finish}], "usage": usage})
            time.sleep(GAP_S)
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
        self.server.answered += 1

    def event(self, event: object) -> None:
        self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def chunk(self, payload: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.bodies = []
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def start(
    folder: Path,
    server: Server,
    load: Load,
    budget: Budget,
    *,
    count: int = 50,
    conversations: bool = False,
    joins_s: tuple[float, ...] = (),
    **job: Any,
) -> subprocess.Popen[bytes]:
    gap = None if load.rate_rps is None else 1 / load.rate_rps
    warm = budget.warmup_requests
    due = [None if gap is None or i < warm else (i - warm) * gap for i in range(count)]
    requests = [Request(i, (1, 2, i), TOKENS, due[i], BODY) for i in range(count)]
    for index, join_s in enumerate(joins_s):
        requests[index] = replace(requests[index], think_s=join_s)
    if conversations:
        requests = [as_turn(request) for request in requests]
    lines = b"\n".join(msgspec.json.encode(request) for request in requests)
    (folder / "requests.jsonl").write_bytes(lines + b"\n")
    spec = DriveJob(
        base_url=f"http://127.0.0.1:{server.server_address[1]}",
        model_name="m",
        load=load,
        budget=budget,
        requests_path=str(folder / "requests.jsonl"),
        records_path=str(folder / "records.jsonl"),
        **job,
    )
    (folder / "job.json").write_bytes(msgspec.json.encode(spec))
    command = [sys.executable, "-m", "enginebench_workloads.driver", str(folder / "job.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def as_turn(request: Request) -> Request:
    """Number 0 is alone; then three turns are a conversation."""
    at, asked = (request.index - 1) % 3, (Message("user", f"q{request.index}"),)
    if request.index == 0 or at == 0:
        return replace(request, prompt=asked)
    follows = request.index - 1
    return replace(request, prompt=asked, scheduled_s=None, follows=follows, think_s=0.05)


def finish(process: subprocess.Popen[bytes]) -> list[DriveEvent]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    return [msgspec.json.decode(line, type=DriveEvent) for line in out.splitlines()]


def records(folder: Path) -> list[RequestRecord]:
    lines = (folder / "records.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=RequestRecord) for line in lines]


def test_a_closed_loop_keeps_all_users_busy_and_stamps_the_truth(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(requests=8, warmup_requests=2)
    *progress, done = finish(start(tmp_path, server, Load(users=3), budget))
    made = records(tmp_path)
    measured = [record for record in made if record.phase == "measure"]
    assert [record.phase for record in made].count("warmup") == 2
    assert sorted(record.request_index for record in measured) == list(range(2, 10))
    assert {record.user for record in measured} == {0, 1, 2}
    for record in made:
        assert record.error is None and record.finish_reason == "length"
        assert record.chunk_tokens == (1,) * TOKENS
        assert record.token_count_source == "chunk_usage"
        assert (record.prompt_tokens, record.completion_tokens) == (3, TOKENS)
        assert record.chunk_ns[0] - record.sent_ns >= FIRST_S * 1e9
        assert record.end_ns - record.chunk_ns[0] >= GAP_S * 1e9 * (TOKENS - 1)
    assert isinstance(done, DriveDone) and done.measure_start_ns and done.measure_end_ns
    assert done.measure_start_ns < done.measure_end_ns <= max(r.end_ns for r in measured) + 5e7
    assert done.client_cpu_s > 0
    last = progress[-1]
    assert isinstance(last, DriveProgress) and (last.requests, last.errors) == (10, 0)


def test_a_duration_ends_the_cell_and_requests_under_way_are_finished(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(duration_s=0.4, warmup_requests=0)
    finish(start(tmp_path, server, Load(users=2), budget))
    made = records(tmp_path)
    assert 4 <= len(made) <= 10
    assert all(record.error is None for record in made)


def test_an_open_loop_sends_on_schedule_whatever_the_server_does(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(requests=10, warmup_requests=1)
    finish(start(tmp_path, server, Load(rate_rps=40.0), budget))
    made = sorted(
        (r for r in records(tmp_path) if r.phase == "measure"), key=lambda r: r.request_index
    )
    gaps = [(b.scheduled_ns - a.scheduled_ns) / 1e9 for a, b in itertools.pairwise(made)]
    assert gaps == pytest.approx([0.025] * 9, abs=1e-6)
    assert all(record.sent_ns >= record.scheduled_ns for record in made)


def test_extensions_that_a_server_refuses_are_left_out(tmp_path: Path, server: Server) -> None:
    server.mode = "strict"
    process = start(tmp_path, server, Load(users=1), Budget(requests=1, warmup_requests=0))
    _, err = process.communicate(timeout=60)
    assert b"ignore_eos" in err
    assert "ignore_eos" not in server.bodies[-1]
    assert records(tmp_path)[0].error is None


@pytest.mark.parametrize(
    ("mode", "words"),
    [("overloaded", "HTTP 503: queue is full"), ("dying", "HttpError"), ("hung", "within 0.5 s")],
)
def test_a_failed_request_is_a_record_with_what_came_before(
    tmp_path: Path, server: Server, mode: str, words: str
) -> None:
    server.mode = mode
    budget = Budget(requests=2, warmup_requests=0)
    finish(start(tmp_path, server, Load(users=2), budget, request_timeout_s=0.5))
    made = records(tmp_path)
    assert len(made) == 2
    for record in made:
        assert record.error is not None and words in record.error
        assert len(record.chunk_ns) == {"overloaded": 0, "dying": 2, "hung": 1}[mode]


def test_a_server_that_refuses_connections_is_an_error_in_every_record(
    tmp_path: Path, server: Server
) -> None:
    server.server_close()
    finish(start(tmp_path, server, Load(users=1), Budget(requests=2, warmup_requests=1)))
    made = records(tmp_path)
    assert len(made) == 3 and all("refused" in (record.error or "") for record in made)


def test_sigterm_stops_sending_and_keeps_what_there_is(tmp_path: Path, server: Server) -> None:
    process = start(tmp_path, server, Load(users=2), Budget(duration_s=60, warmup_requests=0))
    while server.answered < 4:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    events = finish(process)
    assert isinstance(events[-1], DriveDone)
    made = records(tmp_path)
    assert sum(record.error is None for record in made) >= 3
    assert {record.error for record in made} <= {None, "stopped by the harness"}


def test_an_open_loop_counts_from_its_first_answer_to_the_end_of_its_duration(
    tmp_path: Path, server: Server
) -> None:
    budget = Budget(duration_s=0.5, warmup_requests=0)
    *_, done = finish(start(tmp_path, server, Load(rate_rps=20.0), budget))
    made = sorted(records(tmp_path), key=lambda record: record.request_index)
    assert [record.request_index for record in made] == list(range(10))
    assert isinstance(done, DriveDone) and done.measure_start_ns and done.measure_end_ns
    begin_ns = made[0].scheduled_ns
    assert done.measure_start_ns >= min(record.end_ns for record in made)
    assert (done.measure_end_ns - begin_ns) / 1e9 == pytest.approx(0.5, abs=0.1)


def test_sigterm_in_an_open_loop_records_what_was_under_way(tmp_path: Path, server: Server) -> None:
    server.mode = "hung"
    process = start(tmp_path, server, Load(rate_rps=50.0), Budget(duration_s=60, warmup_requests=0))
    while len(server.bodies) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert isinstance(finish(process)[-1], DriveDone)
    made = records(tmp_path)
    assert len(made) >= 4
    assert {record.error for record in made} == {"stopped by the harness"}
    assert any(len(record.chunk_ns) == 1 for record in made)


def test_a_conversation_sends_what_was_really_answered(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=5, warmup_requests=1)
    finish(start(tmp_path, server, Load(users=1), budget, conversations=True))
    made = records(tmp_path)
    assert [record.request_index for record in made] == [0, 1, 2, 3, 4, 5]
    assert all(record.error is None and record.text == "a" * TOKENS for record in made)
    roles = [[message["role"] for message in body["messages"]] for body in server.bodies[1:]]
    turns = [
        ["user"],
        ["user", "assistant", "user"],
        ["user", *["assistant", "user"] * 2],
    ]
    assert roles == [["user"], *turns, *turns[:2]]
    last = server.bodies[4]["messages"]
    assert [message["content"] for message in last] == [
        "q1",
        "a" * TOKENS,
        "q2",
        "a" * TOKENS,
        "q3",
    ]
    by_index = {record.request_index: record for record in made}
    for index in (2, 3, 5):
        pause_ns = by_index[index].scheduled_ns - by_index[index - 1].end_ns
        assert pause_ns == pytest.approx(0.05e9, abs=1)
        assert by_index[index].sent_ns >= by_index[index].scheduled_ns


def test_conversations_in_an_open_loop_begin_on_schedule(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=6, warmup_requests=0)
    load = Load(rate_rps=20.0)
    *_, done = finish(start(tmp_path, server, load, budget, conversations=True))
    made = {record.request_index: record for record in records(tmp_path)}
    assert len(made) == 6 and all(record.error is None for record in made.values())
    gap_ns = made[4].scheduled_ns - made[1].scheduled_ns if 4 in made and 1 in made else None
    assert gap_ns is None or gap_ns == pytest.approx(3 * 0.05e9, abs=1e3)
    assert isinstance(done, DriveDone) and done.measure_start_ns is not None


def test_warming_up_ends_when_the_pace_is_steady(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=2, warmup_requests=20, warmup_until_steady=True)
    process = start(tmp_path, server, Load(users=1), budget)
    _, err = process.communicate(timeout=60)
    phases = [record.phase for record in records(tmp_path)]
    assert phases.count("measure") == 2 and 3 <= phases.count("warmup") <= 20
    assert f"after {phases.count('warmup')} answers" in err.decode()


def test_users_join_when_they_are_to(tmp_path: Path, server: Server) -> None:
    budget = Budget(requests=6, warmup_requests=0)
    *_, done = finish(start(tmp_path, server, Load(users=2), budget, joins_s=(0.0, 0.4)))
    made = {record.request_index: record for record in records(tmp_path)}
    late = made[1].scheduled_ns - made[0].scheduled_ns
    assert late == pytest.approx(0.4e9, abs=0.1e9) and made[1].sent_ns >= made[1].scheduled_ns
    assert isinstance(done, DriveDone) and done.measure_start_ns is not None
    assert done.measure_start_ns >= made[1].sent_ns  # all users busy


@pytest.mark.parametrize("load", [Load(users=5), Load(rate_rps=40.0)])
def test_several_workers_are_one_driver(tmp_path: Path, server: Server, load: Load) -> None:
    budget = Budget(requests=20, warmup_requests=3)
    *progress, done = finish(start(tmp_path, server, load, budget, load_workers=2))
    made = records(tmp_path)
    assert all(record.error is None for record in made)
    measured = sorted(record.request_index for record in made if record.phase == "measure")
    assert measured == list(range(3, 23)) and len(made) == 23
    if load.users is not None:
        assert {record.user for record in made if record.phase == "measure"} == set(range(5))
    assert all(record.chunk_ns[0] > record.sent_ns >= record.scheduled_ns for record in made)
    assert isinstance(done, DriveDone) and done.workers == 2 and done.measure_start_ns is not None
    last = progress[-1]
    assert isinstance(last, DriveProgress)


def test_a_worker_of_another_machine_joins(tmp_path: Path, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    bench = [sys.executable, "-c", "from enginebench.cli.main import main; main()"]
    worker = subprocess.Popen([*bench, "worker", "--join", where, "--once"])
    budget = Budget(requests=8, warmup_requests=0)
    remote = {"load_workers": 1, "remote_workers": 1, "listen": where}
    *_, done = finish(start(tmp_path, server, Load(users=2), budget, **remote))
    assert worker.wait(30) == 0
    made = records(tmp_path)
    assert sorted(record.request_index for record in made) == list(range(8))
    assert isinstance(done, DriveDone) and done.workers == 2
