"""How late the driver is for its own appointments: what is late for those is late for answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

from enginebench_workloads.kernel_timer import KernelTimer

__all__ = ["LagProbe"]

EVERY_NS = 10_000_000
READABLE = 1


class LagProbe:
    """Keeps an appointment a hundred times a second, in a callback of the event loop: no greenlet
    is switched for it, since at few streams looking at the clock would cost more than reading.

    `also` is done at each appointment, for what else is due now and then.
    """

    def __init__(self, also: Callable[[], None]) -> None:
        self._also = also
        self._lags_ns: list[int] = []
        self._due_ns = 0
        self._timer = KernelTimer.of_this_system()
        self._watcher: Any = None

    def start(self) -> None:
        """From now on, until `stop`."""
        self._due_ns = time.monotonic_ns() + EVERY_NS
        loop = gevent.get_hub().loop
        if self._timer is None:
            self._watcher = loop.timer(EVERY_NS / 1e9, EVERY_NS / 1e9)
            self._watcher.start(self._appear)
            return
        self._timer.set(self._due_ns, every_ns=EVERY_NS)
        self._watcher = loop.io(self._timer.fileno(), READABLE)
        self._watcher.start(self._appear)

    def stop(self) -> None:
        """For good."""
        self._watcher.stop()
        self._watcher.close()
        if self._timer is not None:
            self._timer.close()

    def _appear(self) -> None:
        """Missed appointments are made up for by one that is very late."""
        now_ns = time.monotonic_ns()
        self._lags_ns.append(max(0, now_ns - self._due_ns))
        if self._timer is None:
            self._due_ns = now_ns + EVERY_NS
        else:
            self._due_ns += EVERY_NS * self._timer.read()
        self._also()

    def forget(self) -> None:
        """Count from here on."""
        self._lags_ns.clear()

    @property
    def max_s(self) -> float:
        """The worst; 0 before there is any."""
        return max(self._lags_ns, default=0) * 1e-9

    @property
    def p99_s(self) -> float | None:
        """The 99th percentile, None before there are a hundred."""
        if len(self._lags_ns) < 100:
            return None
        return sorted(self._lags_ns)[len(self._lags_ns) * 99 // 100] * 1e-9
