"""Starting a kernel while the one before it ends (programmatic dependent launch, from sm_90 on).

A decode step is hundreds of kernels of a few microseconds. Launched with `launch_options`, a
kernel's programs are placed while the one before still runs, and ask for their first weights. The
contract: a kernel calls `await_previous` before it reads what the kernel before it wrote, and
before it writes anything. It lets its successor start only after it has waited itself, so all
kernels but the one before have ended when it starts; what they wrote may be read at once, if not
through a core's own cache.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def await_previous(PDL: tl.constexpr):
    """Waits until all that earlier kernels wrote can be seen, then lets the next one start."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


_allowed = True


def allow_early_starts(allowed: bool) -> None:
    """For all launches of this process from now on; graphs keep what they were captured with."""
    global _allowed
    _allowed = allowed


@lru_cache
def starts_early(device: torch.device) -> bool:
    """Whether the device can."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def launch_options(device: torch.device) -> dict[str, bool]:
    """What a launcher adds to its kernel's arguments; the kernel takes PDL as a constexpr."""
    early = _allowed and starts_early(device)
    return {"PDL": True, "launch_pdl": True} if early else {"PDL": False}
