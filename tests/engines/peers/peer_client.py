"""Asks a started engine over HTTP."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from enginebench.server import Server


def ask(server: Server, path: str, **body: Any) -> Any:
    """POST (GET without a body) and decode; HTTPError for what is not 200."""
    request = urllib.request.Request(
        server.endpoint.base_url + path,
        json.dumps(body).encode() if body else None,
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read().decode()
    return json.loads(text) if text.startswith("{") else text


def complete(server: Server, prompt: list[int], max_tokens: int, **more: Any) -> Any:
    """The greedy completion of token ids, all of it however it would end."""
    body = {"temperature": 0, "ignore_eos": True, **more}
    model = server.endpoint.model_name
    return ask(server, "/v1/completions", model=model, prompt=prompt, max_tokens=max_tokens, **body)
