"""Every wrong request is told what is wrong, in OpenAI's words, and harms nothing."""

from __future__ import annotations

import json

import httpx
import pytest
from openai_fakes import CONTEXT, VOCAB, ScriptedEngine, http_get, http_post, serving

from enginebench_openai.access import Access
from enginebench_openai.limits import Limits

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
CALLS = [{"function": {"name": "f", "arguments": "{}"}}]
USER = [{"role": "user", "content": "hi"}]


def error_of(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


def refused(http, route: str, status: int = 400, **body) -> dict:
    start = {"messages": USER} if route == CHAT else {"prompt": "abc"}
    return error_of(http.post(route, json={"model": "fake", **start, **body}), status)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", 2**63),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("seed", 2**63),
        ("seed", "one"),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", CONTEXT),
        ("max_tokens", 10**30),
        ("max_tokens", "16"),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["a"] * 17),
        ("stop", "x" * 1025),
        ("stop", [1]),
        ("stream", "yes"),
        ("ignore_eos", 1),
        ("n", 0),
        ("n", 129),
        ("n", True),
        ("logprobs", True),
        ("logprobs", 0),
        ("logit_bias", {"1": 5}),
        ("store", True),
        ("service_tier", "priority"),
        ("user", 7),
        ("min_tokens", 1),
        ("no_such_field", 1),
    ],
)
def test_the_field_at_fault_is_named(http, route, stream, field, value):
    error = refused(http, route, **{"stream": stream, field: value})
    assert error["param"].split("[")[0] == field and field in error["message"]
    assert error["type"] == "invalid_request_error" and error["code"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("best_of", 2),
        ("best_of", 129),
        ("logprobs", 21),
        ("echo", 1),
        ("suffix", "x"),
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [[1], []]),
        ("prompt", ["a", ""]),
        ("prompt", [1, "a"]),
        ("prompt", [1, [2]]),
        ("prompt", [True]),
        ("prompt", [1.0]),
        ("prompt", None),
        ("prompt", {"text": "a"}),
        ("prompt", [-1]),
        ("prompt", [VOCAB]),
        ("prompt", [[1], [10**20]]),
        ("prompt", "x" * CONTEXT),
        ("prompt", ["a"] * 1025),
        ("messages", USER),
    ],
)
def test_completions_only(http, field, value):
    assert refused(http, COMPLETIONS, **{field: value})["param"].split("[")[0] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", 1),
        ("parallel_tool_calls", 1),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("top_logprobs", 3),
        ("reasoning_effort", "low"),
        ("modalities", ["text", "audio"]),
        ("max_completion_tokens", 0),
        ("max_completion_tokens", CONTEXT),
        ("prompt", "a"),
    ],
)
def test_chat_only(http, field, value):
    assert refused(http, CHAT, **{field: value})["param"] == field


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hi", "messages"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"content": "x"}], "messages[0].role"),
        ([*USER, {"role": "wizard", "content": "x"}], "messages[1].role"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "user", "content": "x", "tool_call_id": "1"}], "messages[0].tool_call_id"),
        ([{"role": "user", "content": "x", "tool_calls": CALLS}], "messages[0].tool_calls"),
        ([{"role": "assistant", "content": "x", "tool_calls": [1]}], "messages[0].tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "1"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "user", "content": "x", "weight": 1}], "messages[0].weight"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": "x" * CONTEXT}], "messages"),
        ([{"role": "user", "content": "raise"}], "messages"),
    ],
)
def test_messages(http, messages, param):
    error = error_of(http.post(CHAT, json={"model": "fake", "messages": messages}), 400)
    assert error["param"].replace("...", "0") == param


def test_both_names_of_the_same_limit(http):
    assert refused(http, CHAT, max_tokens=1, max_completion_tokens=1)["param"] == "max_tokens"


def test_stream_options(http):
    assert refused(http, COMPLETIONS, stream_options={})["param"] == "stream_options"
    error = refused(http, COMPLETIONS, stream=True, stream_options={"include_all": True})
    assert error["param"] == "stream_options.include_all"
    error = refused(http, COMPLETIONS, stream=True, stream_options={"include_obfuscation": True})
    assert error["param"] == "stream_options.include_obfuscation"


@pytest.mark.parametrize("route", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b"3",
        b'{"model": "fake"} x',
        b'{"model": "\xff"}',
        b'{"model": "fake", "prompt": "\\ud800"}',
        b'{"model": "fake", "prompt": "\\udc00 alone"}',
        b'{"model": "fake", "prompt": "\xed\xa0\x80"}',
        b'{"model": "fake", "temperature": NaN}',
        b'{"model": "fake", "temperature": 1e999}',
        b'{"model": "fake", "logit_bias": ' + b"[" * 100_000,
        b'{"model": "fake", "logit_bias": ' + b'{"a":' * 100_000,
    ],
)
def test_bodies_that_are_no_request(http, route, raw):
    assert error_of(http.post(route, content=raw), 400)["code"]


@pytest.mark.parametrize("route", [COMPLETIONS, CHAT])
def test_a_missing_model_and_a_wrong_one(http, route):
    assert error_of(http.post(route, json={}), 400)["code"] == "missing_parameter"
    error = refused(http, route, 404, model="other")
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "'fake'" in error["message"]


def test_what_only_the_engine_can_refuse(http):
    for stream in (False, True):
        error = refused(http, COMPLETIONS, prompt="refuse", stream=stream)
        assert "no room" in error["message"]


def test_detokenize_and_tokenize(http):
    def of(route, **body):
        return error_of(http.post(route, json=body), 400)["param"]

    assert of("/detokenize", tokens=[VOCAB]) == of("/detokenize", tokens=[-1]) == "tokens"
    assert of("/tokenize") == of("/tokenize", prompt="a", messages=USER) == "prompt"
    error_of(http.post("/tokenize", json={"prompt": "a", "model": "other"}), 404)


def test_routes_and_methods_that_do_not_exist(http):
    error_of(http.get("/nowhere"), 404)
    error_of(http.get(COMPLETIONS), 405)
    error_of(http.post("/v1/completions/"), 404)


def test_a_body_beyond_the_limit():
    with serving(ScriptedEngine(), limits=Limits(max_body_bytes=1000)) as server:
        body = json.dumps({"model": "fake", "prompt": "x" * 2000}).encode()
        for content in (body, iter([body[:900], body[900:]])):  # with a length, and chunked
            answer = http_post(server.url + COMPLETIONS, content=content)
            assert error_of(answer, 413)["code"] == "request_too_large"
        assert http_get(f"{server.url}/health").status_code == 200


def test_a_model_without_a_chat_template():
    with serving(ScriptedEngine(), chat_template=None) as server:
        answer = http_post(server.url + CHAT, json={"model": "fake", "messages": USER})
        assert error_of(answer, 400)["code"] == "no_chat_template"


def test_an_api_key_guards_everything_but_health():
    with serving(ScriptedEngine(), access=Access(api_keys=("sesame",))) as server:
        with httpx.Client(base_url=server.url, verify=False) as http:
            assert http.get("/health").status_code == 200
            for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "sesame"}):
                for route in ("/v1/models", "/metrics", "/nowhere"):
                    answer = http.get(route, headers=headers)
                    assert error_of(answer, 401)["code"] == "invalid_api_key"
            answer = http.get("/v1/models", headers={"Authorization": "Bearer sesame"})
            assert answer.status_code == 200


def test_errors_are_counted(http):
    def count() -> float:
        lines = http.get("/metrics").text.splitlines()
        name = 'enginebench:http_errors_total{status="404"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = count()
    http.get("/nowhere")
    assert count() == before + 1
