"""How torch's threads behave on a CPU that they do not have for themselves.

An OpenMP barrier spins by default. When any other process (the client that measures us, say) takes
one of the cores, the other threads then burn theirs until it comes back: measured with two threads
on two busy cores, output fell from 18 to 2 tokens/s. Sleeping at once costs each product about 0.1
ms until its second thread is awake, in a virtual machine. So threads spin a little and then sleep:
SmolLM2 on two cores, through HTTP, at 1 and 16 requests, 25.6 and 124 tokens/s sleeping at once,
31.3 and 166 so (32.1 and 188 with three times the spinning); but 8 instead of 29 steps a second
beside a process that never rests.
"""

from __future__ import annotations

import os

__all__ = ["spin_briefly", "thread_count"]


def spin_briefly() -> None:
    """Call before torch is imported: OpenMP reads the environment once. What the user set wins."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def thread_count() -> int:
    """As many as the process may run on, or fewer where the environment says so."""
    cores = len(os.sched_getaffinity(0))
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(told)) if told.isdecimal() and int(told) else cores
