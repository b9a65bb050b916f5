"""From an opened model and resolved options to one that runs: CPU level, kernel cache, packing."""

from __future__ import annotations

from collections.abc import Callable

from enginebench.errors import UsageError
from enginebench_models import Model
from enginebench_models.cache import cache_folder
from enginebench_quant.kernels.features import CpuLevel, choose_level
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel
from enginebench_quant.options import QuantOptions

__all__ = ["load_model"]


def load_model(model: Model, options: QuantOptions, *, log: Callable[[str], None]) -> QuantModel:
    """Ready to compute; `log` hears of whatever takes long or runs slower than it should."""
    level = _level(options.cpu_level)
    if level.name == "plain":
        log("no vector instructions are used here (cpu_level plain): answers are right, but slow")
    kernels = Kernels(level, cache_folder() / "kernels", log)
    return QuantModel(model, kernels, context=options.context, threads=options.threads)


def _level(name: str) -> CpuLevel:
    try:
        return choose_level(name)
    except ValueError as error:
        raise UsageError(f"quant: {error}") from error
