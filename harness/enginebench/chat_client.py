"""Streams answers from /v1/chat/completions of an OpenAI-compatible server, standard library only.

    client = ChatClient(endpoint, {"temperature": 0})
    for piece in client.stream(messages): print(piece, end="")
    client.answer                  # the whole, with its figures; also after Ctrl-C

Leaving the loop early closes the connection, which tells the server to stop.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from enginebench.conversation import Answer
from enginebench.errors import EngineError
from enginebench.types import Endpoint, Message

__all__ = ["ChatClient"]

TIMEOUT_S = 600.0


class ChatClient:
    """One server; one answer at a time. `body` holds further JSON fields of every request."""

    def __init__(self, endpoint: Endpoint, body: Mapping[str, Any]) -> None:
        self._endpoint, self._body = endpoint, dict(body)
        self._forget()

    @property
    def answer(self) -> Answer:
        """What came so far of the latest answer."""
        return Answer("".join(self._pieces), self._tokens, self._first_s, self._total_s)

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """Yields the answer piece by piece; EngineError if the server fails or refuses."""
        self._forget()
        connection = self._connect()
        try:
            for event in self._events(connection, messages):
                yield from self._take(event)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise EngineError(f"{self._endpoint.base_url} broke off: {reason}") from error
        finally:
            self._total_s = time.monotonic() - self._started
            connection.close()

    def _forget(self) -> None:
        self._started = time.monotonic()
        self._pieces: list[str] = []
        self._tokens: int | None = None
        self._first_s: float | None = None
        self._total_s = 0.0

    def _connect(self) -> http.client.HTTPConnection:
        url = urlsplit(self._endpoint.base_url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        return kind(url.hostname or "", url.port, timeout=TIMEOUT_S)

    def _events(
        self, connection: http.client.HTTPConnection, messages: Sequence[Message]
    ) -> Iterator[Mapping[str, Any]]:
        path = urlsplit(self._endpoint.base_url).path.rstrip("/") + "/v1/chat/completions"
        connection.request("POST", path, self._request(messages), self._headers())
        response = connection.getresponse()
        if response.status != 200:
            raise EngineError(_refusal(response.status, response.read()))
        while line := response.readline():
            data = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield _decoded(data)

    def _request(self, messages: Sequence[Message]) -> bytes:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        fields = {
            "model": self._endpoint.model_name,
            "messages": turns,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps({**self._body, **fields}).encode()

    def _headers(self) -> dict[str, str]:
        key = self._endpoint.api_key
        own = {"Content-Type": "application/json"}
        return {**own, "Authorization": f"Bearer {key}"} if key else own

    def _take(self, event: Mapping[str, Any]) -> Iterator[str]:
        if "error" in event:
            raise EngineError(f"the server failed: {_message(event)}")
        if usage := event.get("usage"):
            self._tokens = usage.get("completion_tokens")
        for choice in event.get("choices") or ():
            if piece := (choice.get("delta") or {}).get("content"):
                if self._first_s is None:
                    self._first_s = time.monotonic() - self._started
                self._pieces.append(piece)
                yield piece


def _decoded(data: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise EngineError(f"the server sent what is no JSON object: {data[:200]!r}")
    return event


def _refusal(status: int, body: bytes) -> str:
    try:
        return f"the server answers {status}: {_message(json.loads(body))}"
    except (ValueError, AttributeError):
        return f"the server answers {status}: {body[:200].decode(errors='replace')}"


def _message(event: Mapping[str, Any]) -> str:
    """OpenAI's form of an error, or whatever else stands there."""
    error = event.get("error", event)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
