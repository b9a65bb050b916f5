"""`bench chat` through a pipe: messages in, answers out, and nothing else on stdout."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from enginebench.chat_client import ChatClient
from enginebench.cli import main
from enginebench.errors import EngineError
from enginebench.hookspecs import hookimpl
from enginebench.plugins import Origin, PluginManager
from enginebench.types import (
    Availability,
    Endpoint,
    Engine,
    EngineSpec,
    Hardware,
    Message,
    ModelInfo,
    Option,
)


class FakeServer(http.server.BaseHTTPRequestHandler):
    """Answers a chat with what its last message said, a character a chunk."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({**body, "key": self.headers["Authorization"], "path": self.path})
        text = body["messages"][-1]["content"]
        if text == "refuse":
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "not that one"}}')
            return
        self.send_response(200)
        self.end_headers()
        self.say({"choices": [{"delta": {"role": "assistant"}}]})
        for character in text.upper():
            self.say({"choices": [{"delta": {"content": character}}]})
        if text == "break":
            self.say({"error": {"message": "out of memory"}})
        if text == "garbage":
            self.wfile.write(b"data: [1, 2\n\n")
        self.say({"choices": [], "usage": {"completion_tokens": len(text)}})
        self.wfile.write(b": a comment\n\ndata: [DONE]\n\n")

    def say(self, event: object) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())


@pytest.fixture
def url() -> Iterator[str]:
    FakeServer.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class FakeUrlEngine:
    name, summary = "url", ""
    options = (Option("url", str, None, "", required=True),)

    def availability(self) -> Availability:
        return Availability(True)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Endpoint:
        return Endpoint(str(spec.options["url"]), model.name, api_key="secret")


class FakePlugin:
    @hookimpl
    def enginebench_engines(self) -> Sequence[Engine]:
        return [FakeUrlEngine()]

    @hookimpl
    def enginebench_resolve_model(self, name: str) -> ModelInfo:
        return ModelInfo(name, "remote")


def chat(url: str, lines: str, *arguments: str) -> Result:
    manager = PluginManager()
    manager.add(FakePlugin(), Origin("fake", "fake", "1"))
    return CliRunner().invoke(main, ["chat", url, *arguments], input=lines, obj=manager)


def test_answers_alone_are_on_stdout(url: str) -> None:
    result = chat(url, "hello\n\nyou\n", "--system", "Be brief.", "--max-tokens", "9")
    assert result.exit_code == 0, result.output
    assert result.stdout == "HELLO\nYOU\n"
    assert "2 answers, 8 tokens" in result.stderr
    first, second = FakeServer.asked
    assert first["path"] == "/v1/chat/completions"
    assert first["key"] == "Bearer secret"
    assert (first["model"], first["max_tokens"], first["stream"]) == ("remote", 9, True)
    assert "temperature" not in first
    assert [message["content"] for message in second["messages"]] == [
        "Be brief.",
        "hello",
        "HELLO",
        "you",
    ]


def test_sampling_options_become_fields_of_the_request(url: str, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array"}')
    options = "--temperature 0.5 --top-k 3 --xtc-probability 0.2 --mirostat-tau 4 --seed 1"
    biases = ("--logit-bias", "5=-3", "--logit-bias", "7=2.5", "--json-schema", str(schema))
    result = chat(url, "hello\n", *options.split(), *biases)
    assert result.exit_code == 0, result.output
    sent = FakeServer.asked[0]
    assert (sent["temperature"], sent["top_k"], sent["xtc_probability"]) == (0.5, 3, 0.2)
    assert (sent["mirostat"], sent["mirostat_tau"], sent["seed"]) == (2, 4, 1)
    assert sent["logit_bias"] == {"5": -3.0, "7": 2.5}
    form = sent["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", {"type": "array"})
    chat(url, "hello\n", "--json")
    assert FakeServer.asked[1]["response_format"] == {"type": "json_object"}
    chat(url, "hello\n", "--grammar", str(schema))
    assert FakeServer.asked[2]["grammar"] == '{"type": "array"}'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "0"], "--top-p"),
        (["--logit-bias", "5"], "as 42=-5; got 5"),
        (["--json", "--grammar", "FILE"], "give one of --json, --json-schema and --grammar"),
        (["--json-schema", "FILE"], "is no JSON"),
    ],
)
def test_bad_sampling_options_are_refused_by_name(
    url: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    file = tmp_path / "file"
    file.write_text("root ::= [")
    result = chat(url, "hello\n", *[str(file) if a == "FILE" else a for a in arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert not FakeServer.asked


def test_commands_change_what_is_sent(url: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    lines = f"one\n/save {saved}\n/reset\n/system Sing.\ntwo\n/load {saved}\nthree\n/quit\nfour\n"
    result = chat(url, lines)
    assert result.stdout == "ONE\nTWO\nTHREE\n"
    contents = [[m["content"] for m in asked["messages"]] for asked in FakeServer.asked]
    assert contents == [["one"], ["Sing.", "two"], ["one", "ONE", "three"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sav x", "did you mean /save"),
        ("/save", "/save needs a file"),
        ("/load /nowhere/at/all", "cannot read /nowhere/at/all"),
        ("/save /nowhere/at/all", "cannot write /nowhere/at/all"),
        ("refuse", "the server answers 400: not that one"),
        ("break", "the server failed: out of memory"),
        ("garbage", "what is no JSON object"),
    ],
)
def test_errors_are_said_and_the_rest_goes_on(url: str, line: str, message: str) -> None:
    result = chat(url, f"{line}\nafter\n")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout.endswith("AFTER\n")
    assert [m["content"] for m in FakeServer.asked[-1]["messages"]] == ["after"]


def test_help_lists_the_commands(url: str) -> None:
    result = chat(url, "/help\n/stats\n/system\n")
    assert result.exit_code == 0
    for name in ("/reset", "/system", "/save", "/load", "/stats", "/quit"):
        assert name in result.stderr
    assert "0 answers, 0 tokens" in result.stderr


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginebench.server._ENDPOINT_TIMEOUT_S", 0.1)
    result = chat("http://127.0.0.1:9", "hello\n")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert not result.stdout


def test_client_figures(url: str) -> None:
    client = ChatClient(Endpoint(url, "m"), {})
    stream = client.stream([Message("user", "hello")])
    assert next(stream) == "H"
    stream.close()  # as Ctrl-C does
    assert (client.answer.text, client.answer.tokens) == ("H", None)
    assert "".join(client.stream([Message("user", "hello")])) == "HELLO"
    answer = client.answer
    assert (answer.text, answer.tokens) == ("HELLO", 5)
    assert answer.first_s is not None
    assert 0 < answer.first_s < answer.total_s


def test_client_without_a_server() -> None:
    with pytest.raises(EngineError, match=r"broke off: .*refused"):
        list(ChatClient(Endpoint("http://127.0.0.1:9", "m"), {}).stream([Message("user", "x")]))
