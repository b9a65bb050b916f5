"""Whatever is sent: never a 500, never a hang, and the next good request answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginebench_openai.bodies import ChatBody, CompletionBody

pytestmark = pytest.mark.timeout(120)
relaxed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FIELDS = sorted({*CompletionBody.__struct_fields__, *ChatBody.__struct_fields__, "unknown"})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=80)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "tool"]) | ANYTHING,
            "content": st.text(max_size=20) | ANYTHING,
        }
    ),
    max_size=3,
)
VALUES = {
    "prompt": st.text(max_size=70) | st.lists(st.integers(-1, 300), max_size=70) | ANYTHING,
    "messages": MESSAGES | ANYTHING,
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=18) | ANYTHING,
    "stream": st.booleans(),
    "max_tokens": st.integers(-1, 70) | ANYTHING,
}


@st.composite
def bodies(draw) -> bytes:
    names = draw(st.sets(st.sampled_from(FIELDS), max_size=5))
    body = {name: draw(VALUES.get(name, ANYTHING)) for name in names}
    body.setdefault("model", "fake")
    if draw(st.booleans()):
        body.setdefault("prompt", "abc")
    if draw(st.booleans()):
        body.setdefault("messages", [{"role": "user", "content": "hi"}])
    return json.dumps(body).encode()


@st.composite
def damaged(draw) -> bytes:
    raw = bytearray(draw(bodies()))
    at = draw(st.integers(0, len(raw) - 1))
    raw[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(raw)


@relaxed
@given(raw=bodies() | damaged() | st.binary(max_size=50), chat=st.booleans())
def test_no_body_breaks_the_server(http, raw, chat):
    route = "/v1/chat/completions" if chat else "/v1/completions"
    answer = http.post(route, content=raw)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
    elif "event-stream" in answer.headers["content-type"]:
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        assert answer.json()["choices"][0]["finish_reason"] in ("stop", "length")


@relaxed
@given(raw=bodies() | st.binary(max_size=50), route=st.sampled_from(["/tokenize", "/detokenize"]))
def test_no_body_breaks_the_tokenizer_routes(http, raw, route):
    assert http.post(route, content=raw).status_code in (200, 400, 404)


def test_the_server_is_well_after_all_that(http, shared):
    body = {"model": "fake", "prompt": "abc", "max_tokens": 3}
    assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == "abc"
    assert not shared.engine.has_work()
