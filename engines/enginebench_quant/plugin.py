"""Registers the `quant` engine. Cheap: numba is looked for, not imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import click

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
from enginebench_quant.cli_imatrix import imatrix_command
from enginebench_quant.cli_perplexity import perplexity_command
from enginebench_quant.options import AUTO, OPTIONS

__all__ = ["Quant", "enginebench_calibrators", "enginebench_commands", "enginebench_engines"]

WHOLE_TYPES = ("f32", "f16", "bf16")
LEGACY_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SUPERBLOCK_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
COMPUTED_TYPES = ("F32", "F16", "BF16", *LEGACY_TYPES, *SUPERBLOCK_TYPES, "IQ4_NL", "MXFP4")
GPU_TYPES = (*COMPUTED_TYPES[:8], "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "MXFP4")
CPU_ARCHITECTURES = ("qwen2moe", "qwen3moe")  # mixtures of experts


class Quant:
    """The single-stream runner for quantized models."""

    name = "quant"
    summary = "Single-stream runner on quantized weights: memory-mapped, small, quick to start"
    options: Sequence[Option] = OPTIONS
    server_metrics: Mapping[str, Sequence[str]] = SERVER_METRICS

    def availability(self) -> Availability:
        """It needs numba."""
        if importlib.util.find_spec("numba") is None:
            return Availability(
                ok=False,
                reason="numba is not installed",
                fix='pip install "enginebench[quant]"',
            )
        return Availability(ok=True, version=__version__)

    def refuses(self, model: ModelInfo, hardware: Hardware) -> str | None:
        """CPUs, one GPU, or both; no models that only a server knows, no types without a kernel."""
        if len(hardware.gpus) > 1:
            return f"quant uses one GPU, so far; {hardware} names {len(hardware.gpus)}"
        if hardware.gpus and importlib.util.find_spec("triton") is None:
            return 'quant on a GPU needs torch and triton: pip install "enginebench[all]"'
        if model.format == "remote":
            return f"quant needs the model's files; {model.name} is known to a server only"
        if hardware.gpus and model.architecture in CPU_ARCHITECTURES:
            return (
                f"quant computes {model.architecture} models, which are mixtures of experts, on a "
                "CPU only, so far; take engine paged, or hardware cpu"
            )
        computed = GPU_TYPES if hardware.gpus else COMPUTED_TYPES
        foreign = [type for type in model.weight_types if type not in computed]
        if foreign:
            where = " GPU" if hardware.gpus else ""
            return (
                f"quant has no{where} kernel for {', '.join(foreign)} weights, which {model.name} "
                f"has (there are: {', '.join(computed)})"
            )
        return None

    def launch(self, spec: EngineSpec, model: ModelInfo, port: int) -> Launch:
        """The engine's own server process; where it may use both, layers go where they fit."""
        if spec.hardware.gpus and spec.hardware.cpu_threads and "gpu_layers" not in spec.options:
            spec = replace(spec, options={**spec.options, "gpu_layers": AUTO})
        return server_launch("enginebench_quant.serve", spec, model, port)

    def numerics(self, spec: EngineSpec, model: ModelInfo, log: str) -> Numerics:
        """The file's weights; blocks of them meet activations of 8 bits."""
        compute = "f32" if model.precision in WHOLE_TYPES else "int8"
        return Numerics(model.precision, compute, "f16")


@hookimpl
def enginebench_engines() -> Sequence[Engine]:
    """The engine of this package."""
    return [Quant()]


@hookimpl
def enginebench_calibrators() -> Sequence[Calibrator]:
    """What a CPU can do, by loops compiled for it."""
    if importlib.util.find_spec("numba") is None:
        return []
    return [Calibrator("numba", (sys.executable, "-m", "enginebench_quant.calibrate"))]


@hookimpl
def enginebench_commands() -> Sequence[click.Command]:
    """What can be asked of a model with this engine."""
    return [perplexity_command, imatrix_command]
