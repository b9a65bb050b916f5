"""Starting servers: lost ports, strangers on a port, endpoints that run already, environments."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from stub_bench import PYTHON, QUICK

from enginebench.errors import EngineError
from enginebench.server import Server, hardware_env, start_server
from enginebench.types import (
    API_KEY_VARIABLE,
    Availability,
    Endpoint,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Option,
)

SPEC = EngineSpec("any", "m", Hardware())
MODEL = ModelInfo("m", "remote")
SERVE = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *args):
        pass
class Server(http.server.HTTPServer):
    allow_reuse_address = False
time.sleep(float(sys.argv[2]))
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class AnyEngine:
    name, summary = "any", "does as the test says"
    options: Sequence[Option] = ()

    def __init__(self, launch: Callable[[int], Launch | Endpoint]) -> None:
        self._launch = launch
        self.ports: list[int] = []

    def availability(self) -> Availability:
        return Availability(ok=True)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch | Endpoint:
        self.ports.append(port)
        return self._launch(port)


def serve(port: int, delay_s: float = 0.0) -> Launch:
    return Launch((*PYTHON, SERVE, str(port), str(delay_s)), "name", startup_timeout_s=20)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[AnyEngine], Server]]:
    """Starts an engine and stops it after the test."""
    servers: list[Server] = []

    def start(engine: AnyEngine) -> Server:
        log = tmp_path / "server.log"
        seen: list[int | None] = []
        server = start_server(engine, SPEC, MODEL, log=log, settings=QUICK, on_start=seen.append)
        assert seen[-1] == server.endpoint.pid
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


Begin = Callable[[AnyEngine], Server]


def test_a_server_is_ready_when_it_is_healthy(begin: Begin) -> None:
    server = begin(AnyEngine(lambda port: serve(port, delay_s=0.3)))
    assert server.ready_s is not None and server.ready_s > 0.3
    server.check()
    server.stop()
    with pytest.raises(EngineError, match="was killed by SIGTERM while it served"):
        server.check()


def test_a_lost_port_is_replaced_by_another(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginebench.server._PROBE_TIMEOUT_S", 0.2)
    thieves: list[socket.socket] = []

    def launch(port: int) -> Launch:
        if not thieves:
            thieves.append(socket.create_server(("127.0.0.1", port)))
        return serve(port)

    engine = AnyEngine(launch)
    server = begin(engine)
    thieves[0].close()
    assert len(engine.ports) == 2
    assert server.endpoint.base_url == f"http://127.0.0.1:{engine.ports[1]}"


def test_ports_lost_again_and_again_are_an_error(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginebench.server._PROBE_TIMEOUT_S", 0.2)
    thieves: list[socket.socket] = []

    def launch(port: int) -> Launch:
        thieves.append(socket.create_server(("127.0.0.1", port)))
        return serve(port)

    with pytest.raises(EngineError, match="3 free ports were taken by others") as caught:
        begin(AnyEngine(launch))
    assert "in use" in caught.value.log_tail
    for thief in thieves:
        thief.close()


def test_a_stranger_that_answers_on_the_port_is_not_taken_for_the_server(begin: Begin) -> None:
    """The server still loads while another process, quicker, serves 200 on its port."""
    strangers: list[subprocess.Popen[bytes]] = []

    def launch(port: int) -> Launch:
        if not strangers:
            strangers.append(subprocess.Popen([*PYTHON, SERVE, str(port), "0"]))
            listening = psutil.Process(strangers[0].pid)
            while not listening.net_connections():
                assert strangers[0].poll() is None
        return serve(port, delay_s=0.5)

    engine = AnyEngine(launch)
    try:
        server = begin(engine)
        assert len(engine.ports) == 2
        assert server.endpoint.pid != strangers[0].pid
    finally:
        strangers[0].kill()
        strangers[0].wait()


class Known(http.server.BaseHTTPRequestHandler):
    """Asks for a key, below a prefix."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer k" and self.path == "/proxy/health"
        self.send_response(200 if known else 401)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def running() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Known) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/proxy"
        server.shutdown()
        thread.join()


def test_an_endpoint_is_probed_and_never_stopped(begin: Begin, running: str) -> None:
    server = begin(AnyEngine(lambda port: Endpoint(running, "name", api_key="k")))
    assert server.ready_s is None and server.process is None
    assert server.stop() is None


def test_an_endpoint_that_does_not_answer_is_an_error(
    begin: Begin, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginebench.server._ENDPOINT_TIMEOUT_S", 0.2)
    with pytest.raises(EngineError, match="status 401"):
        begin(AnyEngine(lambda port: Endpoint(running, "name")))
    with pytest.raises(EngineError, match=r"does not answer 200: .*refused"):
        begin(AnyEngine(lambda port: Endpoint(f"http://127.0.0.1:{port}", "name")))


def test_a_command_that_does_not_exist_is_an_engine_error(begin: Begin) -> None:
    with pytest.raises(EngineError, match="any: cannot start nonesuch"):
        begin(AnyEngine(lambda port: Launch(("nonesuch",), "name")))


def test_hardware_reaches_the_engine_by_its_environment(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "for another server")
    assert hardware_env(Hardware(cpu_threads=3))["OMP_NUM_THREADS"] == "3"
    assert hardware_env(Hardware(cpu_threads=3))["CUDA_VISIBLE_DEVICES"] == ""
    two = hardware_env(Hardware(gpus=(0, 2)))
    assert two["CUDA_VISIBLE_DEVICES"] == "0,2" and "OMP_NUM_THREADS" not in two

    def launch(port: int) -> Launch:
        served = serve(port)
        return Launch(served.argv, "name", env={"MINE": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"})

    server = begin(AnyEngine(launch))
    env = psutil.Process(server.endpoint.pid).environ()
    assert env["MINE"] == "1" and env["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
    assert env["PATH"] == os.environ["PATH"] and API_KEY_VARIABLE not in env
