"""From an opened model and options to an engine on the GPU that this process may use."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from importlib.util import find_spec

from enginebench_models import Model
from enginebench_quant.gpu.engine import GpuEngine
from enginebench_quant.options import QuantOptions

__all__ = ["load_engine", "visible_gpus"]


def visible_gpus() -> int:
    """How many GPUs this process may use, asked of the driver: importing torch takes seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or find_spec("triton") is None:
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def load_engine(model: Model, options: QuantOptions, *, log: Callable[[str], None]) -> GpuEngine:
    """Weights on the first visible GPU, kernels compiled, graphs captured."""
    import torch

    from enginebench_quant.gpu.model import GpuModel

    began = time.monotonic()
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    runner = GpuModel(model, context=options.context, device=device)
    runner.close()
    used = torch.cuda.memory_reserved(device)
    log(
        f"{torch.cuda.get_device_name(device)}: {used / 1e9:.2f} GB taken "
        f"({runner.program.cache_bytes / 1e9:.2f} of it for {options.context} positions), "
        f"ready after {time.monotonic() - began:.1f} s"
    )
    return GpuEngine(runner, context=options.context, prompt_cache=options.prompt_cache)
