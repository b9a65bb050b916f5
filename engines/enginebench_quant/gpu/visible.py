"""Whether this process may use a GPU, asked of the driver: importing torch takes seconds."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec

__all__ = ["visible_gpus"]


def visible_gpus() -> int:
    """How many GPUs there are for this process; 0 also where torch or triton is missing."""
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
