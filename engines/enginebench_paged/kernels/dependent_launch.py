"""Starting a kernel while the one before it ends (programmatic dependent launch, from sm_90 on).

A decode step of a small model is hundreds of kernels of a few microseconds; a start costs each of
them about one. Launched with `launch_options`, a kernel's programs are already placed when the one
before ends. The contract: every kernel calls `await_previous` before it reads anything that
a kernel wrote and before it writes anything; what it may do earlier is read weights. It lets
its successor start only after it has waited itself, so no kernel ever runs beside its
predecessor's predecessor.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from enginebench_paged.kernels.configs import chip


@triton.jit
def await_previous(PDL: tl.constexpr):
    """Waits until all that the previous kernel wrote can be seen, then lets the next one start."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


def launch_options(device: torch.device) -> dict[str, bool]:
    """What a launcher adds to its kernel's arguments; the kernel takes PDL as a constexpr."""
    return {"PDL": True, "launch_pdl": True} if chip(device).dependent_launch else {"PDL": False}
