"""How late the driver is for its own appointments: what is late for those is late for answers."""

from __future__ import annotations

import time

from enginebench_workloads.alarm import Alarm

__all__ = ["LagProbe"]

EVERY_NS = 10_000_000


class LagProbe:
    """`run` is a greenlet's work; it keeps an appointment a hundred times a second."""

    def __init__(self) -> None:
        self._lags_ns: list[int] = []

    def run(self) -> None:
        """Until killed. Missed appointments are made up for by one that is very late."""
        alarm, due_ns = Alarm(), time.monotonic_ns()
        try:
            while True:
                due_ns = max(due_ns + EVERY_NS, time.monotonic_ns())
                alarm.sleep_until(due_ns)
                self._lags_ns.append(time.monotonic_ns() - due_ns)
        finally:
            alarm.close()

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
