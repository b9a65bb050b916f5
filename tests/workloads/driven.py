"""The driver as a process, and a small server whose timing is known."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from enginebench.drive import DriveEvent, DriveJob
from enginebench.types import Budget, Load, Message, Request, RequestRecord

FIRST_S, GAP_S, TOKENS = 0.05, 0.02, 5
BODY = {"temperature": 0.0, "ignore_eos": True}


class Server(ThreadingHTTPServer):
    """Streams TOKENS tokens; counts requests; does what `mode` says."""

    daemon_threads = True
    mode = "good"
    answered = 0

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.bodies: list[dict[str, object]] = []


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
        base_url="http://{}:{}".format(*server.server_address[:2]),
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
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err.decode()
    return [msgspec.json.decode(line, type=DriveEvent) for line in out.splitlines()]


def records(folder: Path) -> list[RequestRecord]:
    lines = (folder / "records.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=RequestRecord) for line in lines]
