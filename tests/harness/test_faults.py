"""Answers that break, through the whole harness with the real driver: each is a record, none is
asked again, and the cell goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from enginebench import hookimpl, load
from enginebench.drive import DriveJob
from enginebench.execute import run_plan
from enginebench.plugins import metrics, plugin_manager
from enginebench.progress import Silent
from enginebench.run_settings import RunSettings
from enginebench.types import (
    Availability,
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Launch,
    Load,
    ModelInfo,
    Option,
    Plan,
    Request,
    WorkloadSpec,
)
from enginebench_reports.validity import flags

FAULTS = ("ok", "limited", "unready", "truncated", "garbage", "reset", "hung", "ok")
WORDS = {
    "limited": "HTTP 429: slow down",
    "unready": "HTTP 503: still loading",
    "truncated": "truncated stream",
    "garbage": "malformed stream",
    "reset": "HttpError",
    "hung": "within 1 s",
}
SERVER = r"""
import http.server, json, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    posts = 0
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.posts += 1
        print("post", Handler.posts, flush=True)
        fault = asked["prompt"]
        self.close_connection = True
        if fault in ("limited", "unready"):
            known = {"limited": (429, "slow down"), "unready": (503, "still loading")}
            status, words = known[fault]
            body = json.dumps({"error": {"message": words}}).encode()
            self.send_response(status); self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(body))); self.end_headers()
            return self.wfile.write(body)
        self.send_response(200)
        if fault == "reset":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        self.say({"choices": [{"text": "a", "finish_reason": None}]})
        if fault == "hung":
            time.sleep(5)
        if fault == "garbage":
            self.wfile.write(b"data: {]\n\n")
        if fault == "ok":
            self.say({"choices": [{"text": "b", "finish_reason": "length"}]})
            self.say({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
            self.wfile.write(b"data: [DONE]\n\n")
    def say(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Faulty:
    name, summary = "faulty", "answers as its prompt says"
    options: Sequence[Option] = ()

    def availability(self) -> Availability:
        return Availability(ok=True)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        return Launch((sys.executable, "-I", "-S", "-c", SERVER, str(port)), "m")


class Faults:
    name, summary = "faults", "every fault once"
    options: Sequence[Option] = ()

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        return [Request(index, fault, 2) for index, fault in enumerate(FAULTS)]


class FaultyPlugin:
    @hookimpl
    def enginebench_engines(self) -> Sequence[Faulty]:
        return [Faulty()]

    @hookimpl
    def enginebench_workloads(self) -> Sequence[Faults]:
        return [Faults()]


def test_each_fault_is_a_record_and_nothing_is_asked_again(tmp_path: Path) -> None:
    spec = EngineSpec("faulty", "m", Hardware())
    budget = Budget(requests=len(FAULTS), warmup_requests=0)
    cell = Cell(0, spec, WorkloadSpec("faults"), Load(users=1), budget, 0, 0, "000-faulty")
    plan = Plan("faults", 0, (cell,), {"m": ModelInfo("m", "remote")})
    settings = RunSettings(check_answers=False, request_timeout_s=1.0, grace_s=0.5)
    manager = plugin_manager(FaultyPlugin())
    outcome = run_plan(
        plan, tmp_path / "run", Silent(), command="", settings=settings, manager=manager
    )
    assert (outcome.ok, outcome.failed) == (1, 0)

    (result,) = load(tmp_path / "run")
    rows = sorted(result.records.to_pylist(), key=lambda row: row["request_index"])
    assert [row["request_index"] for row in rows] == list(range(len(FAULTS)))
    for fault, row in zip(FAULTS, rows, strict=True):
        assert WORDS.get(fault, "") in (row["error"] or ""), fault
        assert (row["error"] is None) == (fault == "ok")
        streamed = fault not in ("limited", "unready")
        assert row["text"] == {"ok": "ab"}.get(fault, "a" if streamed else ""), fault
    posts = (result.folder / "server.log").read_text().count("post")
    assert posts == 1 + len(FAULTS)  # the driver asks once what the server takes

    figures = {name: v for metric in metrics() for name, v in metric.compute(result).items()}
    (errors,) = [flag for flag in flags(result, figures) if flag.name == "errors"]
    assert errors.level == "invalid" and "6 of 8 requests failed" in errors.reason


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_driver_whose_disk_is_full_says_so(tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(msgspec.json.encode(Request(0, "ok", 2)) + b"\n")
    job = DriveJob(
        base_url="http://127.0.0.1:9",
        model_name="m",
        load=Load(users=1),
        budget=Budget(requests=1, warmup_requests=0),
        requests_path=str(requests),
        records_path="/dev/full",
    )
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job))
    command = [sys.executable, "-m", "enginebench_workloads.driver", str(tmp_path / "job.json")]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert b"No space left on device" in ended.stderr
