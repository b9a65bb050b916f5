"""The routes, and what surrounds them: errors in OpenAI's words, keys, other origins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from enginebench_openai import native, status
from enginebench_openai.access import Access
from enginebench_openai.bodies import ChatBody, CompletionBody
from enginebench_openai.chat import chat_completions
from enginebench_openai.completions import completions
from enginebench_openai.embeddings import EmbeddingBody, embeddings
from enginebench_openai.errors import ApiError, error_response
from enginebench_openai.gateway import Gateway
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.native_bodies import NativeBody
from enginebench_openai.native_completion import native_completion
from enginebench_openai.openapi import openapi_document
from enginebench_openai.served import ServedModels, read_body, served
from enginebench_openai.tokens import (
    DetokenizeBody,
    TemplateBody,
    TokenizeBody,
    apply_template,
    detokenize,
    tokenize,
)

__all__ = ["build_app"]

GETS: Final = {
    "/v1/models": "application/json",
    "/props": "application/json",
    "/slots": "application/json",
    "/health": "application/json",
    "/version": "application/json",
    "/metrics": "text/plain",
}
Endpoint = Callable[[Request], Awaitable[ASGIApp]]


def build_app(models: ServedModels, *, access: Access) -> Starlette:
    """The ASGI application. With a key, every route but /health asks for it."""
    several = len(models.by_name) > 1
    bodies: dict[str, type[msgspec.Struct]] = {}

    def post(
        path: str, endpoint: Endpoint, body: type[msgspec.Struct], *, generates: bool = True
    ) -> Route:
        bodies[path] = body
        chosen = _of_the_named_model(endpoint, loads=generates) if several else endpoint
        return Route(path, chosen, methods=["POST"])

    app = Starlette(
        routes=[
            post("/v1/completions", completions, CompletionBody),
            post("/v1/chat/completions", chat_completions, ChatBody),
            post("/v1/embeddings", embeddings, EmbeddingBody),
            Route("/v1/models", status.models),
            Route("/v1/models/{name:path}", status.model),
            post("/tokenize", tokenize, TokenizeBody, generates=False),
            post("/detokenize", detokenize, DetokenizeBody, generates=False),
            post("/apply-template", apply_template, TemplateBody, generates=False),
            Route("/props", native.props),
            Route("/slots", native.slots),
            post("/slots/0", native.slot_file, native.SlotBody),
            post("/completion", native_completion, NativeBody),
            post("/completions", native_completion, NativeBody),
            Route("/health", status.health),
            Route("/version", status.version),
            Route("/metrics", status.metrics),
            Route("/openapi.json", _document(bodies)),
        ],
        middleware=[
            *_cross_origin(access.cors_origins),
            Middleware(Gateway, access=access, metrics=models.first.metrics),
        ],
        exception_handlers={
            ApiError: _render_api_error,
            HTTPException: _render_http_error,
            ClientDisconnect: _render_disconnect,
            Exception: _render_defect,
        },
    )
    app.router.redirect_slashes = False
    app.state.models = models
    return app


def _document(bodies: Mapping[str, type[msgspec.Struct]]) -> Endpoint:
    @cache
    def rendered() -> bytes:
        return msgspec.json.encode(openapi_document(bodies, GETS))

    async def document(request: Request) -> Response:
        return Response(rendered(), media_type="application/json")

    return document


class _Named(msgspec.Struct):
    model: str | None = None


_named_decoder = msgspec.json.Decoder(_Named)


def _of_the_named_model(endpoint: Endpoint, *, loads: bool) -> Endpoint:
    """`endpoint` for several models: `served` is the one that the body names.

    Bodies that name none, or cannot be read, are left to the endpoint, which says what is wrong.
    """

    async def chosen(request: Request) -> ASGIApp:
        models: ServedModels = request.app.state.models
        raw = await read_body(request)
        try:
            name = _named_decoder.decode(raw).model
        except (ValueError, RecursionError):
            name = None
        on = request.scope["served"] = models.by_name.get(name or "", models.first)
        if loads and name in models.by_name:
            await on.front.usable()
        return await endpoint(request)

    return chosen


def _cross_origin(origins: tuple[str, ...]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    ]


def _counted(error: ApiError, metrics: ServerMetrics) -> Response:
    metrics.http_errors[error.status] += 1
    return error_response(error)


async def _render_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _counted(error, served(request).metrics)


async def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers) if error.headers else None
    return await _render_api_error(request, ApiError(error.status_code, message, headers=headers))


async def _render_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it


async def _render_defect(request: Request, error: Exception) -> Response:
    defect = ApiError(500, "the server has a defect; see its log", code="internal")
    return await _render_api_error(request, defect)
