"""Registers the `paged` engine. Cheap: torch is looked for, not imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from enginebench import __version__, hookimpl
from enginebench.types import (
    Availability,
    Calibrator,
    Engine,
    EngineSpec,
    Hardware,
    Launch,
    ModelInfo,
    Numerics,
    Option,
)
from enginebench_openai import server_launch
from enginebench_openai.metric_names import SERVER_METRICS
from enginebench_paged.options import OPTIONS
from enginebench_paged.parallel.layout import spread
from enginebench_paged.precision import told

__all__ = ["Paged", "enginebench_calibrators", "enginebench_engines"]


class Paged:
    """The batched server on paged attention."""

    name = "paged"
    summary = "Batched server: paged attention, continuous batching, prefix cache, chunked prefill"
    options: Sequence[Option] = OPTIONS
    server_metrics: Mapping[str, Sequence[str]] = SERVER_METRICS

    def availability(self) -> Availability:
        """It needs torch; a GPU is used if there is one."""
        if importlib.util.find_spec("torch") is None:
            return Availability(
                ok=False,
                reason="torch is not installed",
                fix='pip install "enginebench[paged]"',
            )
        return Availability(ok=True, version=__version__)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """Models that only a server knows, weights that cannot be decoded."""
        if hardware.gpus and importlib.util.find_spec("triton") is None:
            return 'paged needs triton on a GPU: pip install "enginebench[paged]"'
        if model.format == "remote":
            return f"paged needs the model's files; {model.name} is known to a server only"
        if model.format == "gguf" and model.precision is not None:
            return _undecodable(model.precision)
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """The engine's own server process, with others where it spreads over several GPUs."""
        spec = replace(spec, options=spread(spec.options, spec.hardware))
        return server_launch("enginebench_paged.serve", spec, model, port)

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """What the server prints."""
        return told(log)


def _undecodable(precision: str) -> str | None:
    from enginebench_models.dequantizers import DEQUANTIZABLE

    known = [type.name for type in DEQUANTIZABLE]
    if precision.upper() in known:
        return None
    return f"paged cannot decode {precision} weights (it can: {', '.join(known)})"


@hookimpl
def enginebench_calibrators() -> Sequence[Calibrator]:
    """What torch's own kernels reach, on a GPU or a CPU."""
    if importlib.util.find_spec("torch") is None:
        return []
    argv = (sys.executable, "-m", "enginebench_paged.calibrate")
    return [Calibrator("torch", argv, measures_gpus=True)]


@hookimpl
def enginebench_engines() -> Sequence[Engine]:
    """The engine of this package."""
    return [Paged()]
