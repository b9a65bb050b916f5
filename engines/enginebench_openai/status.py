"""Routes that tell about the server: /v1/models, /health, /version, /metrics."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from enginebench import __version__
from enginebench_openai.served import Served, served

__all__ = ["health", "metrics", "model", "models", "version"]


async def health(request: Request) -> Response:
    """200 when requests are taken; 503 while the engine loads, drains or is dead."""
    state = served(request).front.state
    return _json({"status": "ok" if state == "ready" else state}, 200 if state == "ready" else 503)


async def version(request: Request) -> Response:
    """The version of enginebench."""
    return _json({"version": __version__})


async def models(request: Request) -> Response:
    """The one model that is served."""
    return _json({"object": "list", "data": [_card(served(request))]})


async def model(request: Request) -> Response:
    """One model by name; 404 for any but ours."""
    on = served(request)
    on.check_model(request.path_params["name"])
    return _json(_card(on))


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(
        served(request).metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _card(on: Served) -> dict[str, Any]:
    return {
        "id": on.name,
        "object": "model",
        "created": on.created,
        "owned_by": "enginebench",
        "max_model_len": on.front.context_length or None,
    }


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
