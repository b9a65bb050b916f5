"""Requests that nobody should send, as hypothesis strategies, for the tests and the long script.

Half of them come from schemathesis, which reads the server's own OpenAPI document and breaks its
rules one by one; the other half aims at what documents do not say: lengths, unicode, depth, numbers
that JSON cannot hold, roles and templates, bytes that are no JSON at all.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

warnings.filterwarnings("ignore", category=DeprecationWarning)  # of what schemathesis imports
import schemathesis  # noqa: E402

__all__ = ["BadRequest", "bad_requests", "is_well_answered"]

GOOD_STATUSES = frozenset({200, 400, 404, 405, 413, 422, 429, 501, 503, 504})


@dataclass(frozen=True, slots=True)
class BadRequest:
    """What is sent, byte by byte."""

    method: str
    path: str
    body: bytes


def bad_requests(document: Mapping[str, Any], model: str) -> st.SearchStrategy[BadRequest]:
    """Requests to the routes of `document`, most of which name `model`."""
    routes = [path for path, methods in document["paths"].items() if "post" in methods]
    fields = sorted(
        {name for schema in document["components"]["schemas"].values() for name in _fields(schema)}
    )
    own = st.builds(
        BadRequest,
        st.just("POST"),
        st.sampled_from(routes),
        _bodies(fields, model)
        | _deep()
        | st.binary(max_size=60)
        | _damaged(_bodies(fields, model)),
    )
    return own | _from_document(document, model)


def is_well_answered(status: int, content_type: str, body: bytes) -> bool:
    """Whether an answer is a good one or a proper error, whatever was asked."""
    if status not in GOOD_STATUSES:
        return False
    if status == 200 and "event-stream" in content_type:
        is_whole = body.endswith(b"data: [DONE]\n\n") or b'"stop":true' in body
        return is_whole or b'"error"' in body
    try:
        answer = json.loads(body)
    except ValueError:
        return "text/plain" in content_type
    return status == 200 or bool(answer["error"]["message"])


def _fields(schema: Mapping[str, Any]) -> list[str]:
    return list(schema.get("properties", ()))


# ------------------------------------------------------------------ what we think of

TEXTS = (
    st.text(max_size=60)
    | st.text(alphabet=st.characters(categories=["Cs", "Co", "Cn", "Cc"]), max_size=8)
    | st.sampled_from(["\x00", "\ud800", "\udfff\ud800", "\u202e", "e\u0301" * 30, "👩‍👩‍👧‍👦" * 20])
    | st.builds(lambda length: "a " * length, st.sampled_from([31, 63, 64, 65, 5000, 40000]))
)
NUMBERS = (
    st.integers(-3, 70)
    | st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400])
    | st.floats()  # NaN and infinities too, which Python writes and JSON forbids
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "tool", "narrator", ""])
            | ANYTHING,
            "content": TEXTS | st.just("raise") | ANYTHING,
        },
        optional={"name": TEXTS, "tool_calls": ANYTHING, "extra": ANYTHING},
    ),
    max_size=3,
)
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "prompt": TEXTS | st.lists(st.integers(-1, 300), max_size=70) | ANYTHING,
    "messages": MESSAGES | ANYTHING,
    "tokens": st.lists(NUMBERS, max_size=10) | ANYTHING,
    "stop": TEXTS | st.lists(TEXTS, max_size=18) | ANYTHING,
    "stream": st.booleans(),
    "max_tokens": st.integers(-1, 70) | ANYTHING,
    "n": st.integers(-1, 3) | ANYTHING,
    "n_predict": st.integers(-2, 70) | ANYTHING,
    "n_cmpl": st.integers(-1, 3) | ANYTHING,
    "logit_bias": st.lists(st.tuples(TEXTS | NUMBERS, NUMBERS | st.booleans()), max_size=3)
    | st.dictionaries(TEXTS | st.just("7"), NUMBERS | st.booleans(), max_size=3)
    | ANYTHING,
}


@st.composite
def _bodies(draw: st.DrawFn, fields: list[str], model: str) -> bytes:
    names = draw(st.sets(st.sampled_from([*fields, "unknown", ""]), max_size=5))
    body = {name: draw(VALUES.get(name, ANYTHING)) for name in names}
    if draw(st.integers(0, 9)):
        body["model"] = model
    for name, value in (("prompt", "abc"), ("messages", [{"role": "user", "content": "hi"}])):
        if draw(st.booleans()):
            body.setdefault(name, value)
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def _damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    raw = bytearray(draw(bodies))
    at = draw(st.integers(0, len(raw) - 1))
    raw[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(raw)


@st.composite
def _deep(draw: st.DrawFn) -> bytes:
    depth = draw(st.sampled_from([50, 900, 1100, 5000, 100_000]))
    opening, closing = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))
    inner = opening * depth + b"1" + closing * draw(st.sampled_from([depth, 0]))
    return draw(st.sampled_from([inner, b'{"model":"x","prompt":' + inner + b"}"]))


# ------------------------------------------------------------- what the document forbids


def _from_document(document: Mapping[str, Any], model: str) -> st.SearchStrategy[BadRequest]:
    schema = schemathesis.openapi.from_dict(dict(document))
    operations = [found.ok() for found in schema.get_all_operations()]
    cases = [
        operation.as_strategy(generation_mode=mode)
        for operation in operations
        if operation.method == "post"
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    ]
    return st.builds(_request, st.one_of(cases), st.booleans(), st.just(model))


def _request(case: Any, name_it: bool, model: str) -> BadRequest:
    body = case.body
    if name_it and isinstance(body, dict) and isinstance(body.get("model"), str):
        body = {**body, "model": model}
    if isinstance(body, bytes):
        raw = body
    else:
        raw = json.dumps(body, default=str).encode("utf-8", "surrogatepass")
    return BadRequest(case.method.upper(), case.path, raw)
