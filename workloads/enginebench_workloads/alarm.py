"""Sleeping until a moment, to the microsecond: by a timer of the kernel where there is one."""

from __future__ import annotations

import time

import gevent
import gevent.socket

from enginebench_workloads.kernel_timer import KernelTimer

__all__ = ["Alarm", "sleep_until"]


def sleep_until(due_ns: int) -> None:
    """Once, with an alarm of its own."""
    alarm = Alarm()
    try:
        alarm.sleep_until(due_ns)
    finally:
        alarm.close()


class Alarm:
    """One sleeper's clock: not to be shared by greenlets."""

    def __init__(self) -> None:
        self._timer = KernelTimer.of_this_system()

    def sleep_until(self, due_ns: int) -> None:
        """Until the monotonic clock shows `due_ns`; at once if it already does."""
        if due_ns <= time.monotonic_ns():
            return
        if self._timer is None:
            gevent.sleep((due_ns - time.monotonic_ns()) / 1e9)
            return
        self._timer.set(due_ns)
        gevent.socket.wait_read(self._timer.fileno())
        self._timer.read()

    def close(self) -> None:
        """Give the timer back."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
