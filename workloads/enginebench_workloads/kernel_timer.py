"""A timer of the kernel that can be read like a socket: it wakes an event loop to the microsecond,
where the loop's own timers only know milliseconds. Linux only; knows no loop.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Self

__all__ = ["KernelTimer"]

TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME = os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0), 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("due", _Timespec))


class KernelTimer:
    """`fileno` is readable when it has run out. All methods raise OSError."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    @classmethod
    def of_this_system(cls) -> Self | None:
        """None where the system has none."""
        return cls() if sys.platform == "linux" else None

    def fileno(self) -> int:
        return self._fd

    def set(self, due_ns: int, *, every_ns: int = 0) -> None:
        """Run out when the monotonic clock shows `due_ns`, then again and again unless 0."""
        every, due = divmod(every_ns, 1_000_000_000), divmod(due_ns, 1_000_000_000)
        setting = _Setting(_Timespec(*every), _Timespec(*due))
        if self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def read(self) -> int:
        """How often it has run out since the last time; BlockingIOError: not once."""
        return int.from_bytes(os.read(self._fd, 8), sys.byteorder)

    def close(self) -> None:
        """Give it back to the system."""
        os.close(self._fd)
