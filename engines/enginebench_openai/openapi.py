"""The OpenAPI document of a server, made from the routes and the very types that read their bodies.

So it cannot fall behind the code. Served at /openapi.json; it is also what the fuzzing script
generates its requests from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from enginebench import __version__

__all__ = ["openapi_document"]

_JSON: Final = "application/json"
_ERRORS: Final[Mapping[int, str]] = {
    400: "the request is wrong; the message names the field",
    401: "a valid API key is required",
    404: "no such model",
    408: "the rest of the request did not come",
    413: "the body is too large",
    429: "the queue is full; see Retry-After",
    500: "the engine failed at this request",
    501: "this server was not started for that",
    503: "not now: loading, restarting, overloaded or shutting down; see Retry-After",
    504: "the request took too long",
}


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct):
    """OpenAI's error object."""

    error: _Error


def openapi_document(
    posts: Mapping[str, type[msgspec.Struct]], gets: Mapping[str, str]
) -> dict[str, Any]:
    """`posts`: the body of each POST route; `gets`: what each GET route answers with."""
    types = [*posts.values(), ErrorAnswer]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    bodies = dict(zip(posts, schemas, strict=False))
    paths: dict[str, Any] = {
        path: {"post": _post(bodies[path], body, schemas[-1])} for path, body in posts.items()
    }
    for path, media_type in gets.items():
        paths[path] = {"get": {"responses": {"200": _answer("the answer", media_type)}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "enginebench", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _post(schema: object, body: type[msgspec.Struct], error: object) -> dict[str, Any]:
    responses = {"200": {"description": "the answer, or a stream of it"}}
    for status, meaning in _ERRORS.items():
        responses[str(status)] = _answer(meaning, _JSON, error)
    return {
        "summary": (body.__doc__ or "").partition("\n")[0],
        "requestBody": {"required": True, "content": {_JSON: {"schema": schema}}},
        "responses": responses,
    }


def _answer(meaning: str, media_type: str, schema: object = None) -> dict[str, Any]:
    content = {media_type: {"schema": {} if schema is None else schema}}
    return {"description": meaning, "content": content}
