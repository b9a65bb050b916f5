"""Routes that tell about the server: /v1/models, /health, /version, /metrics."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from enginebench import __version__
from enginebench_openai.served import Served, ServedModels, served

__all__ = ["health", "metrics", "model", "models", "version"]

_HEALTH: Final = ("draining", "dead", "restarting", "loading", "ok")  # the worst first


async def health(request: Request) -> Response:
    """200 when requests are taken; 503 while an engine loads at the start, is restarted or dead,
    and while the server shuts down. A model that is loaded when it is wanted is well.
    """
    states = [_state(on) for on in _models(request).by_name.values()]
    worst = min(states, key=_HEALTH.index)
    return _json({"status": worst}, 200 if worst == "ok" else 503)


async def version(request: Request) -> Response:
    """The version of enginebench."""
    return _json({"version": __version__})


async def models(request: Request) -> Response:
    """Every model that requests may name."""
    cards = [_card(on) for on in _models(request).by_name.values()]
    return _json({"object": "list", "data": cards})


async def model(request: Request) -> Response:
    """One model by name; 404 for any but ours."""
    name, known = request.path_params["name"], _models(request)
    on = known.by_name.get(name, known.first)
    on.check_model(name)
    return _json(_card(on))


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(
        served(request).metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _models(request: Request) -> ServedModels:
    found: ServedModels = request.app.state.models
    return found


def _state(on: Served) -> str:
    front = on.front
    if front.shutting_down:
        return "draining"
    on_demand = on.name != on.all_names[0] or front.context_length
    if front.state == "loading" and on_demand:
        return "ok"
    return "ok" if front.state in ("ready", "unloaded") else front.state


def _card(on: Served) -> dict[str, Any]:
    return {
        "id": on.name,
        "object": "model",
        "created": on.created,
        "owned_by": "enginebench",
        "max_model_len": on.front.context_length or None,
        "loaded": on.front.state == "ready",
        "features": sorted(on.front.features),
    }


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
