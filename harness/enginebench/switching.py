"""What it takes to have another model answer: asked of a server that changes models by itself.

    switch_s(endpoint, "other-model")

Asks for one token of the other model and of its own in turn, so that each request has to wait for
its model, and takes the median. An engine that keeps both in memory switches in no time, and is
shown so. One that has to be started again is not asked: `ready_s` is what that takes.
"""

from __future__ import annotations

import http.client
import json
import time
from statistics import median
from urllib.parse import urlsplit

from enginebench.errors import EngineError
from enginebench.types import Endpoint

__all__ = ["switch_s"]

ROUNDS = 2
TIMEOUT_S = 600.0
PROMPT = "Once upon a time"


def switch_s(endpoint: Endpoint, other: str) -> float:
    """Seconds from asking for a model that did not answer last to one token of it.

    The server's own model answers last. Raises EngineError where one does not answer.
    """
    _one_token_s(endpoint, endpoint.model_name)
    return median(
        _one_token_s(endpoint, model)
        for _ in range(ROUNDS)
        for model in (other, endpoint.model_name)
    )


def _one_token_s(endpoint: Endpoint, model: str) -> float:
    url = urlsplit(endpoint.base_url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
    body = json.dumps({"model": model, "prompt": PROMPT, "max_tokens": 1})
    began_s = time.monotonic()
    try:
        connection.request(
            "POST",
            url.path.rstrip("/") + "/v1/completions",
            body,
            {"Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"no answer from {model} after a switch to it: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise EngineError(f"status {answer.status} after a switch to {model}: {said[:300]}")
    return time.monotonic() - began_s
