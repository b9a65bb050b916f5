"""The fixed questions, and asking them of servers that take more or less of the API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from enginebench.answers import Answer, ask
from enginebench.questions import ANSWER_TOKENS, Question, questions
from enginebench.types import Endpoint, ModelInfo

KNOWN = ModelInfo("m", "gguf", vocab_size=100, first_ordinary_token=10, ordinary_token_end=60)
QUESTIONS = [Question("one"), Question((1, 2, 3)), Question("three"), Question("four")]


class Handler(BaseHTTPRequestHandler):
    refused: tuple[str, ...] = ()
    events: tuple[Any, ...] = ()
    bodies: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        refused = [field for field in self.refused if field in body]
        self.send_response(400 if refused else 200)
        self.end_headers()
        if refused:
            self.wfile.write(f"no {refused[0]} here".encode())
        for event in () if refused else self.events:
            said = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"data: {said}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def server(*events: Any, refused: tuple[str, ...] = ()) -> Iterator[tuple[Endpoint, list[Any]]]:
    bodies: list[Any] = []
    kind = type("It", (Handler,), {"refused": refused, "events": events, "bodies": bodies})
    it = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{it.server_port}", "served"), bodies
    finally:
        it.shutdown()
        thread.join()
        it.server_close()


def chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, **more}]}


FINE = (chunk("a"), chunk(""), chunk(" b", finish_reason="length"), {"choices": []}, "[DONE]")


def test_questions_are_the_same_each_time_and_hold_ordinary_tokens() -> None:
    asked = questions(KNOWN)
    assert asked == questions(KNOWN)
    ids = [token for each in asked if not isinstance(each.prompt, str) for token in each.prompt]
    assert ids and all(10 <= token < 60 for token in ids)
    assert all(each.max_tokens == ANSWER_TOKENS for each in asked)
    texts = questions(ModelInfo("m", "remote"))
    assert texts and all(isinstance(each.prompt, str) for each in texts)
    assert len({each.prompt for each in asked}) == len(asked)


def test_answers_come_in_the_order_of_the_questions() -> None:
    with server(*FINE) as (endpoint, bodies):
        told = ask(endpoint, QUESTIONS)
    assert list(told.questions) == QUESTIONS
    assert set(told.answers) == {Answer(("a", " b"), (), "length")}
    assert sorted(str(body["prompt"]) for body in bodies) == sorted(
        ["one", "[1, 2, 3]", "three", "four"]
    )
    assert all(body["temperature"] == 0 and body["model"] == "served" for body in bodies)


@pytest.mark.parametrize(
    ("refused", "sent"),
    [
        ((), {"ignore_eos", "logprobs"}),
        (("logprobs",), {"ignore_eos"}),
        (("ignore_eos",), {"logprobs"}),
        (("ignore_eos", "logprobs"), set()),
    ],
)
def test_extensions_that_a_server_refuses_are_left_out(
    refused: tuple[str, ...], sent: set[str]
) -> None:
    with server(*FINE, refused=refused) as (endpoint, bodies):
        assert all(answer.error is None for answer in ask(endpoint, QUESTIONS).answers)
    assert {"ignore_eos", "logprobs"} & set(bodies[-1]) == sent


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1, "b": -2.5}]},
        {
            "content": [
                {"token": "a", "logprob": -0.1, "top_logprobs": [{"token": "b", "logprob": -2.5}]}
            ]
        },
    ],
)
def test_both_forms_of_logprobs_are_read(logprobs: dict[str, Any]) -> None:
    with server(chunk("a", logprobs=logprobs, finish_reason="length")) as (endpoint, _):
        told = ask(endpoint, QUESTIONS[:1])
    assert told.answers[0].logprobs == ({"a": -0.1, "b": -2.5},)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (("{nonsense",), "DecodeError"),
        ((chunk("a"),), "ended without a finish_reason"),
        ((chunk("a"), {"error": {"message": "out of memory"}}), "out of memory"),
        (("[" * 5000,), "Error"),
    ],
)
def test_what_goes_wrong_is_told(events: tuple[Any, ...], words: str) -> None:
    with server(*events) as (endpoint, _):
        told = ask(endpoint, QUESTIONS[:2])
    assert all(words in (answer.error or "") for answer in told.answers)


def test_a_server_that_is_gone_raises_nothing() -> None:
    with server() as (endpoint, _):
        pass
    assert all("refused" in (a.error or "") for a in ask(endpoint, QUESTIONS).answers)
