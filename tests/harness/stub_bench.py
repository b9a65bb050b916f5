"""A whole bench of stubs, standard library only: server, driver, engine, workload, plugin, plan.

The engine's option `mode` says how its server behaves:

    ok            answers every request at once
    dies          ends with code 3 at the second request
    killed        kills itself with SIGKILL at the second request
    hangs         never answers a request
    exits         ends with code 7 before it listens
    never_ready   runs, and never listens
    refuses       answers every request with status 500

Run as a program, it runs (or resumes) a plan: `stub_bench.py run|resume FOLDER MODE...`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from enginebench import hookimpl
from enginebench.execute import RunOutcome, resume, run_plan
from enginebench.plugins import PluginManager, plugin_manager
from enginebench.progress import Silent
from enginebench.run_settings import RunSettings
from enginebench.types import (
    Availability,
    Budget,
    Cell,
    Endpoint,
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

SERVER = r"""
import http.server, os, signal, subprocess, sys, time
mode, port, pids = sys.argv[1], int(sys.argv[2]), sys.argv[3]
worker = subprocess.Popen(["sleep", "1000"], start_new_session=True)
with open(pids, "a") as file:
    file.write(f"{os.getpid()}\n{worker.pid}\n")
print("stub server in mode", mode, flush=True)
if mode == "exits":
    print("no memory left", flush=True)
    sys.exit(7)
if mode == "never_ready":
    time.sleep(1000)

class Handler(http.server.BaseHTTPRequestHandler):
    posts = 0
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200)
    def do_POST(self):
        Handler.posts += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        print("post", Handler.posts, flush=True)
        if mode == "hangs":
            time.sleep(1000)
        if mode == "dies" and Handler.posts == 2:
            print("boom", flush=True)
            os._exit(3)
        if mode == "killed" and Handler.posts == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        self.answer(500 if mode == "refuses" else 200, b"x")
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

DRIVER = r"""
import http.client, json, os, signal, sys, threading, time
mode, pids, job = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
with open(pids, "a") as file:
    file.write(f"{os.getpid()}\n")
if mode == "fails":
    sys.exit("the stub driver cannot go on")
if mode == "garbage":
    print("not an event", flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
counts = {"event": "progress", "phase": "measure", "requests": 0, "tokens": 0, "errors": 0}

def tell():
    print(json.dumps(counts), flush=True)

def heartbeat():
    while True:
        tell()
        time.sleep(0.1)

if mode == "silent":
    time.sleep(1000)
threading.Thread(target=heartbeat, daemon=True).start()
host = job["base_url"].removeprefix("http://")
start = time.monotonic_ns()
with open(job["records_path"], "a") as records:
    for line in open(job["requests_path"]):
        request, sent, error, status = json.loads(line), time.monotonic_ns(), None, None
        try:
            connection = http.client.HTTPConnection(host)
            connection.request("POST", "/v1/completions", b"{}")
            status = connection.getresponse().status
            error = None if status == 200 else f"status {status}"
        except (OSError, http.client.HTTPException) as problem:
            error = repr(problem)
        end = time.monotonic_ns()
        counts["requests"] += 1
        counts["errors" if error else "tokens"] += 1
        records.write(json.dumps({
            "request_index": request["index"], "user": 0, "phase": "measure",
            "scheduled_ns": sent, "sent_ns": sent, "end_ns": end,
            "chunk_ns": [] if error else [end], "chunk_tokens": [] if error else [1],
            "token_count_source": None if error else "usage", "http_status": status,
            "error": error, "text": "" if error else "x"}) + "\n")
        records.flush()
        time.sleep(request["body"].get("pause_s", 0))
if mode == "bad_records":
    open(job["records_path"], "a").write('{"phase": 3}\n')
tell()
print(json.dumps({"event": "done", "measure_start_ns": start, "measure_end_ns":
    time.monotonic_ns(), "client_cpu_s": time.process_time(), "max_loop_lag_s": 0.0}), flush=True)
"""

PYTHON = (sys.executable, "-I", "-S", "-c")


class StubEngine:
    name = "stub"
    summary = "behaves as its option says"
    options: Sequence[Option] = (Option("mode", str, "ok", "how the server behaves"),)

    def __init__(self, pids: Path) -> None:
        self.pids = pids

    def availability(self) -> Availability:
        return Availability(ok=True, version="1.2")

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch | Endpoint:
        argv = (*PYTHON, SERVER, str(spec.options["mode"]), str(port), str(self.pids))
        return Launch(argv, "stub-model")


class StubWorkload:
    name = "posts"
    summary = "a few posts"
    options: Sequence[Option] = ()

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        pause = {"pause_s": cell.workload.options.get("pause_s", 0)}
        return [Request(each, "hello", 1, body=pause) for each in range(cell.budget.requests or 0)]


class StubPlugin:
    def __init__(self, pids: Path, driver: str = "ok") -> None:
        self.engine = StubEngine(pids)
        self.driver = (*PYTHON, DRIVER, driver, str(pids))

    @hookimpl
    def enginebench_engines(self) -> Sequence[StubEngine]:
        return [self.engine]

    @hookimpl
    def enginebench_workloads(self) -> Sequence[StubWorkload]:
        return [StubWorkload()]

    @hookimpl(tryfirst=True)
    def enginebench_driver_command(self) -> Sequence[str]:
        return self.driver


def stub_manager(pids: Path, driver: str = "ok") -> PluginManager:
    return plugin_manager(StubPlugin(pids, driver))


def stub_plan(*modes: str, pause_s: float = 0.0, hardware: Hardware | None = None) -> Plan:
    """One cell of three posts for each mode."""
    workload = WorkloadSpec("posts", {"pause_s": pause_s})
    cells = tuple(
        Cell(
            index,
            EngineSpec("stub", "m", hardware or Hardware(), {"mode": mode}),
            workload,
            Load(users=1),
            Budget(requests=3),
            repeat=0,
            seed=index,
            id=f"{index:03d}-{mode}",
        )
        for index, mode in enumerate(modes)
    )
    return Plan("stubs", 1, cells, {"m": ModelInfo("m", "remote")})


QUICK = RunSettings(
    check_answers=False,
    stall_timeout_s=1.0,
    startup_timeout_s=20.0,
    grace_s=0.5,
    telemetry_interval_s=0.05,
)


def main(verb: str, folder: str, *modes: str) -> RunOutcome:
    manager = stub_manager(Path(folder).with_suffix(".pids"))
    if verb == "resume":
        return resume(Path(folder), Silent(), manager=manager)
    plan = stub_plan(*modes, pause_s=0.4)
    return run_plan(plan, Path(folder), Silent(), command="x", settings=QUICK, manager=manager)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    print(main(*sys.argv[1:]))
