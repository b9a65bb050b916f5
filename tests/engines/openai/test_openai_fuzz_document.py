"""Requests that break the rules of the server's own OpenAPI document, and rules that it has not."""

from __future__ import annotations

import socket

import pytest
from bad_requests import BadRequest, bad_requests, is_well_answered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.timeout(120)


def test_the_document_names_every_route_that_takes_a_body(http):
    document = http.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/tokenize"} <= set(document["paths"])
    for path, methods in document["paths"].items():
        if "post" in methods:
            assert http.post(path, content=b"").status_code == 400, path
        else:
            assert http.get(path).status_code == 200, path


def test_no_request_is_answered_with_a_defect(http, shared):
    document = http.get("/openapi.json").json()

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(asked=bad_requests(document, "fake"))
    def check(asked: BadRequest) -> None:
        answer = http.request(asked.method, asked.path, content=asked.body)
        kind = answer.headers.get("content-type", "")
        assert is_well_answered(answer.status_code, kind, answer.content), answer.text

    check()
    good = {"model": "fake", "prompt": "abc", "max_tokens": 3}
    assert http.post("/v1/completions", json=good).json()["choices"][0]["text"] == "abc"
    assert not shared.engine.has_work()


@given(target=st.binary(max_size=30), header=st.binary(max_size=30))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_request_line_breaks_the_server(shared, target, header):
    host, port = shared.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"GET /%b HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (target, header))
        raw.shutdown(socket.SHUT_WR)
        answer = raw.recv(4096)
    assert not answer or (answer.startswith(b"HTTP/1.1 ") and not answer.startswith(b"HTTP/1.1 5"))
