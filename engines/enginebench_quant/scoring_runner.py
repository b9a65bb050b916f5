"""A model on the hardware that `bench perplexity` was asked for, in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from enginebench.errors import UsageError
from enginebench.hardware import parse_hardware, this_capacity
from enginebench.server import hardware_env
from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_quant.load import load_model
from enginebench_quant.options import AUTO, QuantOptions
from enginebench_quant.scorers import EngineRunner

__all__ = ["open_runner"]


def open_runner(
    model: Model, chosen: Mapping[str, OptionValue], hardware: str, *, log: Callable[[str], None]
) -> EngineRunner:
    """`hardware` is one entry of what `--hardware` takes; a GPU is the only one torch sees then."""
    entries = parse_hardware(hardware, this_capacity())
    if len(entries) > 1 or len(entries[0].gpus) > 1:
        raise UsageError(f"--hardware {hardware}: give one entry, with one GPU at most")
    place, own = entries[0], dict(chosen)
    if place.cpu_threads is not None and hardware != "cpu":
        own.setdefault("threads", place.cpu_threads)
    if not place.gpus:
        return load_model(model, QuantOptions.resolve(own, model.config), log=log)
    if place.cpu_threads is not None:
        own["gpu_layers"] = AUTO
    os.environ.update(hardware_env(place))
    from enginebench_quant.gpu.load import open_on_gpu

    options = QuantOptions.resolve(own, model.config)
    return open_on_gpu(model, options, own, log=log) or load_model(model, options, log=log)
