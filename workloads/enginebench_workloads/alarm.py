"""Sleeping until a moment, to the microsecond: the event loop's own timers only know milliseconds.

On Linux a kernel timer wakes the loop like a socket would; elsewhere the loop's timers must do.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

import gevent
import gevent.socket

__all__ = ["Alarm", "sleep_until"]

TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME = os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0), 1


def sleep_until(due_ns: int) -> None:
    """Once, with an alarm of its own."""
    alarm = Alarm()
    try:
        alarm.sleep_until(due_ns)
    finally:
        alarm.close()


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("due", _Timespec))


class Alarm:
    """One sleeper's clock: not to be shared by greenlets."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._fd = self._open() if self._libc is not None else None

    def sleep_until(self, due_ns: int) -> None:
        """Until the monotonic clock shows `due_ns`; at once if it already does."""
        if due_ns <= time.monotonic_ns():
            return
        if self._fd is None:
            gevent.sleep((due_ns - time.monotonic_ns()) / 1e9)
            return
        self._set(due_ns)
        gevent.socket.wait_read(self._fd)
        os.read(self._fd, 8)

    def close(self) -> None:
        """Give the timer back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        assert self._libc is not None
        made: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if made < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        return made

    def _set(self, due_ns: int) -> None:
        assert self._libc is not None
        setting = _Setting(_Timespec(0, 0), _Timespec(*divmod(due_ns, 1_000_000_000)))
        if self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
