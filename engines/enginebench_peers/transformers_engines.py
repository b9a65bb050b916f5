"""The `transformers` and `transformers-cb` engines. Cheap: torch is looked for, not imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from importlib import metadata

from enginebench.types import (
    Availability,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Numerics,
    Option,
)
from enginebench_openai import server_launch
from enginebench_openai.metric_names import SERVER_METRICS
from enginebench_peers.installed import absent, present
from enginebench_peers.precision import short_type
from enginebench_peers.transformers_options import BATCHING_OPTIONS, GENERATE_OPTIONS

__all__ = ["Transformers", "TransformersBatching"]

_FIX = 'pip install "enginebench[peers]"'
_BATCHING_SINCE = (5, 17)


class Transformers:
    """The baseline that everybody knows."""

    name = "transformers"
    summary = "Hugging Face transformers' generate(), one request after the other: the baseline"
    options: Sequence[Option] = GENERATE_OPTIONS
    server_metrics: Mapping[str, Sequence[str]] = SERVER_METRICS
    module = "enginebench_peers.transformers_generate"
    is_reference = True

    def availability(self) -> Availability:
        """It needs transformers and torch."""
        for package in ("transformers", "torch"):
            if importlib.util.find_spec(package) is None:
                return absent(f"{package} is not installed", _FIX)
        return present(metadata.version("transformers"))

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """Models that only a server knows, and several GPUs."""
        if len(hardware.gpus) > 1:
            return f"{self.name} runs on one GPU here; {hardware} names {len(hardware.gpus)}"
        if model.format == "remote":
            return f"{self.name} needs the model's files; {model.name} is known to a server only"
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """Our server around it."""
        return server_launch(self.module, spec, model, port)

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """One type for everything; this engine is what models are published with."""
        dtype = str(spec.options.get("dtype", "auto"))
        if dtype == "auto":
            dtype = "bfloat16" if spec.hardware.gpus else "float32"
        short = short_type(dtype)
        return Numerics(short, short, short, is_reference=self.is_reference)


class TransformersBatching(Transformers):
    """transformers' answer to batching servers."""

    name = "transformers-cb"
    summary = "Hugging Face transformers' own continuous batching (greedy decoding only)"
    options: Sequence[Option] = BATCHING_OPTIONS
    module = "enginebench_peers.transformers_batching"
    is_reference = False

    def availability(self) -> Availability:
        """It needs a transformers in which continuous batching takes its present options."""
        state = super().availability()
        if state.version is None or _numbers(state.version) >= _BATCHING_SINCE:
            return state
        needed = ".".join(map(str, _BATCHING_SINCE))
        reason = f"transformers {state.version} is older than {needed}"
        return absent(reason, f'pip install "transformers>={needed}"', state.version)


def _numbers(version: str) -> tuple[int, ...]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)
