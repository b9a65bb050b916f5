"""The routes, and what surrounds them: errors in OpenAI's words, and the API key."""

from __future__ import annotations

import hashlib
import hmac

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from enginebench_openai import status
from enginebench_openai.chat import chat_completions
from enginebench_openai.completions import completions
from enginebench_openai.errors import ApiError, error_response
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.served import Served, served
from enginebench_openai.tokens import detokenize, tokenize

__all__ = ["build_app"]


def build_app(on: Served, *, api_key: str | None = None) -> Starlette:
    """The ASGI application. With a key, every route but /health asks for it."""
    middleware = []
    if api_key is not None:
        middleware.append(Middleware(_RequireKey, key=api_key, metrics=on.metrics))
    app = Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/models", status.models),
            Route("/v1/models/{name:path}", status.model),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/health", status.health),
            Route("/version", status.version),
            Route("/metrics", status.metrics),
        ],
        middleware=middleware,
        exception_handlers={
            ApiError: _render_api_error,
            HTTPException: _render_http_error,
            ClientDisconnect: _render_disconnect,
            Exception: _render_defect,
        },
    )
    app.router.redirect_slashes = False
    app.state.served = on
    return app


class _RequireKey:
    """Compares digests in constant time, so that neither content nor length leaks."""

    def __init__(self, app: ASGIApp, key: str, metrics: ServerMetrics) -> None:
        self._app, self._digest = app, hashlib.sha256(key.encode()).digest()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health" or self._carries_key(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "a valid API key is required: send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
        await _counted(error, self._metrics)(scope, receive, send)

    def _carries_key(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
        return scheme.lower() == "bearer" and hmac.compare_digest(digest, self._digest)


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
