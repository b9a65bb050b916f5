"""The `url` engine: addresses, keys, and how the server's model is found."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from enginebench import plugins
from enginebench.errors import EngineError, UsageError
from enginebench.left_out import why_not
from enginebench.options import parse_options
from enginebench.plan import build_plan
from enginebench.types import Endpoint, EngineSpec, Hardware, ModelInfo, OptionValue
from enginebench_peers import plugin
from enginebench_peers.url import UrlEngine, remote_model


class FakeServer(http.server.BaseHTTPRequestHandler):
    body: ClassVar[bytes] = b""
    keys: ClassVar[list[str | None]] = []

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.keys.append(self.headers["Authorization"])
        locked = self.body == b"locked"
        self.send_response(401 if locked else 200 if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(self.body)


@pytest.fixture
def url() -> Iterator[str]:
    FakeServer.keys.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def serve_models(*names: str) -> None:
    FakeServer.body = json.dumps({"data": [{"id": name} for name in names]}).encode()


def launch(model: str = "remote", **options: OptionValue) -> Endpoint:
    spec = EngineSpec("url", model, Hardware(cpu_threads=1), options)
    return UrlEngine().launch(spec, ModelInfo(model, "remote"), 1)


@pytest.mark.parametrize(
    ("typed", "base"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("https://h/v1", "https://h"),
        ("https://h/some/path/v1/", "https://h/some/path"),
    ],
)
def test_addresses_are_read_with_or_without_v1(typed: str, base: str) -> None:
    assert launch(url=typed, served_model="m").base_url == base


@pytest.mark.parametrize("typed", ["h:8000", "ftp://h", "http://", "localhost"])
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(UsageError, match="write http://HOST:PORT"):
        launch(url=typed, served_model="m")


def test_the_only_model_is_taken(url: str) -> None:
    serve_models("llama")
    endpoint = launch(url=url)
    assert (endpoint.model_name, endpoint.pid, endpoint.base_url) == ("llama", None, url)
    assert endpoint.health_path == "/v1/models"
    assert launch("smollm2-135m", url=url).model_name == "llama"


def test_of_several_the_named_one_is_taken(url: str) -> None:
    serve_models("llama", "qwen")
    assert launch("qwen", url=url).model_name == "qwen"
    assert launch("remote:other", url=url).model_name == "other"
    assert launch(url=url, served_model="mine").model_name == "mine"
    with pytest.raises(EngineError, match=r"serves these models: llama, qwen\. Say which"):
        launch(url=url)


def test_the_key_comes_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_models("llama")
    monkeypatch.delenv("ENGINEBENCH_API_KEY", raising=False)
    assert launch(url=url).api_key is None
    monkeypatch.setenv("ENGINEBENCH_API_KEY", "secret")
    assert launch(url=url).api_key == "secret"
    assert FakeServer.keys == [None, "Bearer secret"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"locked", "answers 401; set ENGINEBENCH_API_KEY"),
        (b"<html>", "is no list of models"),
        (b"[]", "is no list of models"),
        (b'{"data": [{}]}', "is no list of models"),
        (b'{"data": []}', "serves these models: none"),
    ],
)
def test_servers_of_another_kind(url: str, body: bytes, message: str) -> None:
    FakeServer.body = body
    with pytest.raises(EngineError, match=message):
        launch(url=url)


def test_nobody_there() -> None:
    with pytest.raises(EngineError, match=r"nothing answers at http://127\.0\.0\.1:9: .*refused"):
        launch(url="http://127.0.0.1:9")


def test_remote_models() -> None:
    assert remote_model("remote") == ModelInfo("remote", "remote")
    assert remote_model("remote:qwen") == ModelInfo("remote:qwen", "remote")
    assert remote_model("remote:") is None
    assert remote_model("remotely") is None


def test_without_an_address_it_stays_out_of_all_and_says_so() -> None:
    out = why_not(UrlEngine())
    assert out is not None
    assert "--set url.url=VALUE" in str(out)
    manager = plugins.plugin_manager()
    assert "url" in plugins.engines(manager)
    assert plugins.resolve_model("remote:x", manager).format == "remote"


def test_an_address_is_all_that_a_plan_needs() -> None:
    manager = plugins.plugin_manager()
    raw = {"url": ["http://127.0.0.1:9"], "concurrency": ["1"], "hardware": ["cpu:1"]}
    [cell] = build_plan(parse_options(raw), manager).plan.cells
    assert (cell.spec.engine, cell.spec.model) == ("url", "remote")
    beside = build_plan(parse_options({**raw, "engines": ["echo,url"]}), manager).plan.cells
    assert [cell.spec.engine for cell in beside] == ["echo", "url"]


def test_the_plugin_gives_both() -> None:
    assert "url" in [engine.name for engine in plugin.enginebench_engines()]
    assert plugin.enginebench_resolve_model("smollm2-135m") is None
