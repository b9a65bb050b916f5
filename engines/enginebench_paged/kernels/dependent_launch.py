"""Starting a kernel while the one before it ends (programmatic dependent launch, from sm_90 on).

A decode step of a small model is hundreds of kernels of a few microseconds; a start costs each of
them about one. Launched with `launch_options`, a kernel's programs are already placed when the one
before ends. The contract: every kernel calls `await_previous` before it reads what the kernel
before it wrote, and before it writes anything. Earlier it may read what is older (weights, lengths,
block tables), and have the cache fetch what it will need. It lets its successor start only after it
has waited itself, so no kernel ever runs beside its predecessor's predecessor.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from enginebench_paged.kernels.configs import chip

LINE_BYTES = 128  # of the L2 cache


@triton.jit
def await_previous(PDL: tl.constexpr):
    """Waits until all that the previous kernel wrote can be seen, then lets the next one start."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def prefetch_line(at):
    """Has the L2 cache fetch the lines at these addresses; harmless where the data still change."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], tl.int32, is_pure=False, pack=1
    )


def launch_options(device: torch.device) -> dict[str, bool]:
    """What a launcher adds to its kernel's arguments; the kernel takes PDL as a constexpr."""
    return {"PDL": True, "launch_pdl": True} if chip(device).dependent_launch else {"PDL": False}
