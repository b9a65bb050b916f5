"""The `url` engine: an OpenAI-compatible server that somebody else started.

Nothing is started, pinned or stopped, and no process is sampled: only what the client sees is
measured. The key for servers that want one comes from the environment, never from an option, so
that it ends in no Run folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from enginebench.errors import UsageError
from enginebench.types import (
    API_KEY_VARIABLE,
    Availability,
    Endpoint,
    EngineSpec,
    Hardware,
    ModelInfo,
    Option,
)

__all__ = ["REMOTE", "UrlEngine", "remote_model"]

REMOTE = "remote"
"""As a model name: whatever the server serves; with `:NAME` the model of that name there."""


class UrlEngine:
    """A running server, by its address."""

    name = "url"
    summary = "Any OpenAI-compatible server that is already running"
    options: Sequence[Option] = (
        Option("url", str, None, "its address, as in http://127.0.0.1:8000", required=True),
        Option("served_model", str, None, "its name of the model (default: the one it lists)"),
        Option("health_path", str, "/v1/models", "where GET answers 200 when it is ready"),
    )

    def availability(self) -> Availability:
        """It needs nothing of this machine."""
        return Availability(ok=True)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """What a server can run, only the server knows."""
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Endpoint:
        """The server's Endpoint; asks it for its models when the name is not given."""
        from enginebench_peers.served_models import only_model

        base_url = _base_url(str(spec.options["url"]))
        api_key = os.environ.get(API_KEY_VARIABLE)
        served = str(spec.options.get("served_model", "")) or _remote_name(model.name)
        return Endpoint(
            base_url=base_url,
            model_name=served or only_model(base_url, api_key, model.name),
            api_key=api_key,
            health_path=str(spec.options.get("health_path", "/v1/models")),
        )


def remote_model(name: str) -> ModelInfo | None:
    """`remote` and `remote:NAME` stand for a model of which nothing is known here."""
    if name == REMOTE or (name.startswith(f"{REMOTE}:") and _remote_name(name)):
        return ModelInfo(name, "remote")
    return None


def _remote_name(name: str) -> str:
    return name.removeprefix(f"{REMOTE}:") if name.startswith(f"{REMOTE}:") else ""


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"url {text!r}: write http://HOST:PORT or https://HOST")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")
