"""From an opened model and options to an engine on the GPU that this process may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from enginebench.errors import ModelError, UsageError
from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_quant.gpu.engine import GpuEngine
from enginebench_quant.gpu.model import GpuModel
from enginebench_quant.options import CPU_OPTIONS, OPTIONS, QuantOptions

__all__ = ["load_engine"]


def load_engine(
    model: Model,
    options: QuantOptions,
    chosen: Mapping[str, OptionValue],
    *,
    log: Callable[[str], None],
) -> GpuEngine:
    """Weights on the first visible GPU, kernels compiled, graphs captured."""
    _refuse_cpu_options(chosen)
    model.config.refuse_beyond_llama(
        "quant on a GPU", "take the engine paged, or run on hardware cpu"
    )
    options = replace(options, context=_context(model, options, chosen))
    began = time.monotonic()
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    runner = GpuModel(model, context=options.context, device=device)
    runner.close()
    taken, cache = torch.cuda.memory_reserved(device), runner.program.cache_bytes
    log(
        f"{torch.cuda.get_device_name(device)}: {taken / 1e9:.2f} GB taken, {cache / 1e9:.2f} of "
        f"it for {options.context} positions; ready after {time.monotonic() - began:.1f} s"
    )
    return GpuEngine(runner, context=options.context, prompt_cache=options.prompt_cache)


def _context(model: Model, options: QuantOptions, chosen: Mapping[str, OptionValue]) -> int:
    """Sliding windows are not computed here: up to the window there is no difference."""
    window = model.config.sliding_window
    if window is None or options.context <= window:
        return options.context
    if chosen.get("context") is not None:
        raise ModelError(
            f"context {options.context} is above the sliding window of {window}, beyond which "
            f"quant does not compute on a GPU; set context={window}, or run on hardware cpu"
        )
    return window


def _refuse_cpu_options(chosen: Mapping[str, OptionValue]) -> None:
    """UsageError for what would be ignored."""
    defaults = {option.name: option.default for option in OPTIONS}
    for name in CPU_OPTIONS:
        if chosen.get(name, defaults[name]) != defaults[name]:
            raise UsageError(
                f"{name} is for the CPU engine, and this process may use a GPU: leave {name} out, "
                "or run on hardware cpu"
            )
