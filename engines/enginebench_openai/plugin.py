"""Registers the `echo` engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from enginebench import __version__, hookimpl
from enginebench.types import (
    Availability,
    Engine,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Option,
)
from enginebench_openai.echo import DEFAULT_CONTEXT, OPTIONS
from enginebench_openai.launch import server_launch
from enginebench_openai.metric_names import SERVER_METRICS

__all__ = ["Echo", "enginebench_engines"]

STAND_IN = "synthetic:tiny"  # whose tokenizer serves for models that only a remote server knows


class Echo:
    """The harness's own floor: a server whose every latency is known beforehand."""

    name = "echo"
    summary = "Says the prompt back at an exact cadence, computing nothing: the harness's own floor"
    options: Sequence[Option] = OPTIONS
    server_metrics: Mapping[str, Sequence[str]] = SERVER_METRICS
    computes_nothing: Literal[True] = True

    def availability(self) -> Availability:
        """It needs nothing of this machine."""
        return Availability(ok=True, version=__version__)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """Any model will do: only its tokenizer is used. GPUs are left idle."""
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """The echo server; a model that is not here is stood in for by a tiny vocabulary."""
        if model.format == "remote":
            options = {"context_length": DEFAULT_CONTEXT, **spec.options}
            spec, model = replace(spec, options=options), replace(model, name=STAND_IN)
        return server_launch("enginebench_openai.echo", spec, model, port)


@hookimpl
def enginebench_engines() -> Sequence[Engine]:
    """The engine of this package."""
    return [Echo()]
