"""What every request passes first: it gets an id, shows its key, and is written down at the end.

An id that the client sent (`x-request-id`) is kept where it is a plain word, so that it can be
followed from one log to the next; the answer carries it in any case. What is written down is who
asked what route, and how it ended; never a key, and no prompt.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Final
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enginebench_openai.access import Access, client_of, key_number
from enginebench_openai.errors import ApiError, error_response
from enginebench_openai.metrics import ServerMetrics

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset({"/health"})
_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Gateway:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, access: Access, metrics: ServerMetrics) -> None:
        self._app, self._metrics = app, metrics
        self._digests, self._log = access.digests(), access.log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, began = Headers(scope=scope), time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        request_id = state["request_id"] = _request_id(headers)
        tag = (b"x-request-id", request_id.encode())
        status = 499  # for a client that left before its answer began

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), tag]}
            await send(message)

        state["send_on"] = send  # for the rest of streams: who is in between reads first messages
        try:
            await self._admit(scope, headers)(scope, receive, tagged)
        finally:
            if self._log:
                self._write_down(scope, status, time.perf_counter() - began)

    def _admit(self, scope: Scope, headers: Headers) -> ASGIApp:
        """The application, or the refusal of a request without a valid key."""
        if not self._digests or scope["path"] in OPEN_PATHS:
            return self._app
        number = key_number(self._digests, headers)
        if number is not None:
            scope["state"]["key_number"] = number
            return self._app
        self._metrics.http_errors[401] += 1
        return error_response(
            ApiError(
                401,
                "a valid API key is required: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        )

    def _write_down(self, scope: Scope, status: int, seconds: float) -> None:
        facts = {
            "request_id": scope["state"]["request_id"],
            "client": client_of(scope),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 6),
        }
        logger.info("answered", extra=facts)


def _request_id(headers: Headers) -> str:
    sent = headers.get("x-request-id", "")
    return sent if _PLAIN.fullmatch(sent) else uuid4().hex
