"""A `Request` as the bytes of an HTTP request, made before the timed path begins."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from enginebench.drive import DriveJob
from enginebench.types import Message, Request
from enginebench_workloads.connection import Address

__all__ = ["EXTENSIONS", "WireRequest", "encode"]

EXTENSIONS = ("continuous_usage_stats", "ignore_eos")
"""Fields beyond OpenAI's API: left out for a server that refuses them."""


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A `Request` ready to be sent: `data` is head and JSON body.

    A later turn of a conversation has none before its history is known.
    """

    request: Request
    data: bytes

    @property
    def index(self) -> int:
        return self.request.index


def encode(
    request: Request, job: DriveJob, address: Address, *, without: Collection[str] = ()
) -> WireRequest:
    """Fields of the body that are named in `without` are left out."""
    stream_options = {"include_usage": True, "continuous_usage_stats": True}
    body: dict[str, object] = {
        "model": job.model_name,
        "stream": True,
        "max_tokens": request.max_tokens,
        "stream_options": {k: v for k, v in stream_options.items() if k not in without},
        **{k: v for k, v in request.body.items() if k not in without},
    }
    chat = isinstance(request.prompt, tuple) and isinstance(request.prompt[0], Message)
    body["messages" if chat else "prompt"] = request.prompt
    payload = msgspec.json.encode(body)
    route = "chat/completions" if chat else "completions"
    head = [
        f"POST {address.prefix}/v1/{route} HTTP/1.1",
        f"Host: {address.host}:{address.port}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        f"Content-Length: {len(payload)}",
    ]
    if job.api_key is not None:
        head.append(f"Authorization: Bearer {job.api_key}")
    data = "\r\n".join([*head, "", ""]).encode() + payload
    return WireRequest(request, data)
