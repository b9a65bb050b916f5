"""Who may ask, over what, and what is written down about it."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess

import httpx
import pytest
from openai_fakes import Running, ScriptedEngine, http_get, http_post, serving, until

from enginebench_openai.access import Access
from enginebench_openai.logs import set_up_logging

pytestmark = pytest.mark.timeout(60)
ASK = {"model": "fake", "prompt": "a secret prompt", "max_tokens": 2}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def log_as():
    """Sets logging up; what is written then can be read from the stream that it gives."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level

    def begin(style) -> io.StringIO:
        set_up_logging(style, requests=True)
        root.handlers[0].setStream(stream)
        return stream

    yield begin
    root.handlers[:], root.level = before
    for name in ("gateway", "served"):
        logging.getLogger(f"enginebench_openai.{name}").setLevel(logging.NOTSET)


def test_every_key_of_the_file_opens_and_no_other():
    with serving(ScriptedEngine(), access=Access(api_keys=("first", "second"))) as server:
        url = f"{server.url}/v1/models"
        assert [http_get(url, headers=bearer(key)).status_code for key in ("first", "second")] == [
            200,
            200,
        ]
        for wrong in ("x", "firs", "first ,", "firstsecond", "\xff"):
            answer = http_get(url, headers={b"authorization": f"Bearer {wrong}".encode("latin-1")})
            assert answer.status_code == 401


def test_answers_carry_the_request_id():
    with serving(ScriptedEngine()) as server:
        sent = http_get(f"{server.url}/health", headers={"x-request-id": "trace-7.a"})
        assert sent.headers["x-request-id"] == "trace-7.a"
        forged = http_get(f"{server.url}/nowhere", headers={"x-request-id": 'a" b'})
        assert forged.headers["x-request-id"] != 'a" b' and forged.status_code == 404
        streamed = http_post(f"{server.url}/v1/completions", json={**ASK, "stream": True})
        assert len(streamed.headers["x-request-id"]) == 32


def test_other_origins_are_let_in_by_name_only():
    origin = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    with serving(ScriptedEngine()) as closed:
        answer = httpx.options(f"{closed.url}/v1/completions", headers=origin, verify=False)
        assert "access-control-allow-origin" not in answer.headers
    access = Access(api_keys=("k",), cors_origins=("https://chat.example",))
    with serving(ScriptedEngine(), access=access) as opened:
        url = f"{opened.url}/v1/completions"
        answer = httpx.options(url, headers=origin, verify=False)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        other = httpx.options(url, headers={**origin, "origin": "https://evil"}, verify=False)
        assert "access-control-allow-origin" not in other.headers
        assert (
            http_post(url, json=ASK, headers={"origin": "https://chat.example"}).status_code == 401
        )


@pytest.mark.parametrize("prompts", [False, True])
def test_logs_are_json_and_hold_neither_keys_nor_prompts_unless_asked(log_as, prompts):
    log = log_as("json")
    access = Access(api_keys=("sesame",), log_requests=True, log_prompts=prompts)
    with serving(ScriptedEngine(), access=access) as server:
        url = f"{server.url}/v1/completions"
        headers = {**bearer("sesame"), "x-request-id": "me"}
        assert http_post(url, json=ASK, headers=headers).status_code == 200
        assert http_post(url, json=ASK, headers=bearer("wrong")).status_code == 401
        until(lambda: log.getvalue().count('"answered"') >= 2)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    answered = [
        line for line in lines if line["message"] == "answered" and "completions" in line["path"]
    ]
    assert [line["status"] for line in answered] == [200, 401]
    assert answered[0]["client"] == "key 1" and answered[0]["request_id"] == "me"
    assert answered[0]["seconds"] > 0
    assert "sesame" not in log.getvalue() and "wrong" not in log.getvalue()
    assert ("secret prompt" in log.getvalue()) == prompts


def test_log_lines_as_text(log_as):
    log = log_as("text")
    with serving(ScriptedEngine(), access=Access(log_requests=True)) as server:
        http_get(f"{server.url}/version")
        until(lambda: "path='/version' status=200" in log.getvalue())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_and_nothing_else(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    server = Running(ScriptedEngine(), tls_cert=cert, tls_key=key)
    server._thread.start()
    url = server.url.replace("http://", "https://")
    until(lambda: http_get(f"{url}/health").status_code == 200)
    answer = http_post(f"{url}/v1/completions", json={**ASK, "stream": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    with pytest.raises(httpx.TransportError):
        http_get(f"{server.url}/health")
    server.process.stop()
    assert server.join() == 0
