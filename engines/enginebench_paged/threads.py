"""How torch's threads behave on a CPU that they do not have for themselves.

An OpenMP barrier spins by default. When any other process (the client that measures us, say) takes
one of the cores, the other threads then burn theirs until it comes back: measured with two threads
on two busy cores, output fell from 18 to 2 tokens/s. Waiting passively costs some microseconds a
product instead.
"""

from __future__ import annotations

import os

__all__ = ["thread_count", "wait_passively"]


def wait_passively() -> None:
    """Call before torch is imported: OpenMP reads the environment once. What the user set wins."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def thread_count() -> int:
    """As many as the process may run on, or fewer where the environment says so."""
    cores = len(os.sched_getaffinity(0))
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(told)) if told.isdecimal() and int(told) else cores
