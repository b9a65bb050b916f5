"""What changing models takes, against a server that needs a known time for each change."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from enginebench.errors import EngineError
from enginebench.run_settings import RunSettings
from enginebench.server import _argv
from enginebench.switching import switch_s
from enginebench.types import Endpoint, Launch

LOAD_S = 0.2


class Switching(ThreadingHTTPServer):
    loaded = ""
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Switching

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["model"])
        assert body["max_tokens"] == 1
        if self.server.loaded != body["model"]:
            time.sleep(LOAD_S)
        self.server.loaded = body["model"]
        self.send_response(404 if body["model"] == "unknown" else 200)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Switching]:
    made = Switching(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def endpoint(server: Switching) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{server.server_address[1]}", "own")


def test_every_request_waits_for_its_model_and_the_own_one_stays(server: Switching) -> None:
    taken_s = switch_s(endpoint(server), "other")
    assert LOAD_S < taken_s < 20 * LOAD_S
    assert server.asked == ["own", "other", "own", "other", "own"]


def test_a_server_that_keeps_both_switches_in_no_time(server: Switching) -> None:
    server.loaded = "own"
    assert switch_s(endpoint(server), "own") < LOAD_S


def test_a_model_that_does_not_answer_is_an_engines_error(server: Switching) -> None:
    with pytest.raises(EngineError, match="status 404 after a switch to unknown"):
        switch_s(endpoint(server), "unknown")


def test_nobody_there_is_an_engines_error() -> None:
    with pytest.raises(EngineError, match="no answer from own"):
        switch_s(Endpoint("http://127.0.0.1:9", "own"), "other")


def test_a_second_model_is_given_to_those_that_change_models() -> None:
    several, one = Launch(("serve",), "m", several_models=True), Launch(("serve",), "m")
    assert _argv(several, "other") == ("serve", "--model", "other", "--served-model-name", "other")
    assert _argv(several, RunSettings().switch_to) == ("serve",)
    assert _argv(one, "other") == ("serve",)
