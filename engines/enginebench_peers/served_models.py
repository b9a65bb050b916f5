"""Asks an OpenAI-compatible server which models it serves."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request

from enginebench.errors import EngineError

__all__ = ["only_model", "served_models"]


def only_model(base_url: str, api_key: str | None, wanted: str) -> str:
    """The server's one model, or the one called `wanted`."""
    served = served_models(base_url, api_key)
    if wanted in served:
        return wanted
    if len(served) != 1:
        listed = ", ".join(served) or "none"
        raise EngineError(
            f"{base_url} serves these models: {listed}. Say which: --set url.served_model=NAME"
        )
    return served[0]


def served_models(base_url: str, api_key: str | None) -> list[str]:
    """The ids that GET /v1/models lists; EngineError if there is no such answer."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(f"{base_url}/v1/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return [str(model["id"]) for model in json.load(response)["data"]]
    except urllib.error.HTTPError as error:
        hint = "; set ENGINEBENCH_API_KEY" if error.code in (401, 403) else ""
        with error:
            raise EngineError(f"{base_url}/v1/models answers {error.code}{hint}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise EngineError(f"nothing answers at {base_url}: {reason}") from None
    except (ValueError, KeyError, TypeError):
        raise EngineError(
            f"{base_url}/v1/models is no list of models: not an OpenAI-compatible server?"
        ) from None
