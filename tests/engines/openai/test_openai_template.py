"""Chat templates come from strangers: what they may not do to the server."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from openai_fakes import ScriptedEngine, http_get, http_post, serving

from enginebench_models import ChatTemplate
from enginebench_openai.time_limit import OutOfTimeError, within

ENDLESS = "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}"
ASK = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def chat(source: str):
    with serving(ScriptedEngine(), chat_template=ChatTemplate(source)) as server:
        answer = http_post(f"{server.url}/v1/chat/completions", json=ASK, timeout=20)
        assert http_get(f"{server.url}/health").status_code == 200
        return answer


def test_a_template_that_never_ends_is_ended(monkeypatch):
    monkeypatch.setattr("enginebench_openai.served.TEMPLATE_S", 0.2)
    answer = chat(ENDLESS)
    assert answer.status_code == 400 and "did not end" in answer.json()["error"]["message"]
    deadline = time.monotonic() + 10
    while any(thread.name == "limited" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the template still runs"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10000000000 }}",
        "{{ [messages] * 10000000000 }}",
        "{{ 10000000000 * 'a' }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception('not like this') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_does_harm_is_refused(source):
    answer = chat(source)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "chat_template"


def test_work_in_time_gives_its_result_or_its_error():
    assert asyncio.run(within(5, lambda: 7)) == 7
    with pytest.raises(KeyError):
        asyncio.run(within(5, lambda: {}["absent"]))
    with pytest.raises(OutOfTimeError, match=r"0\.05 s"):
        asyncio.run(within(0.05, lambda: [time.sleep(0.01) for _ in range(100)]))
