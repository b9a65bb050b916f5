"""When the kernel received what a read returns, however late the read is.

A read that is stamped when it returns carries the reader's own lateness: the time for which a busy
machine kept the driver from running. Linux notes when each segment came in (SO_TIMESTAMPNS) and
tells with the read, so that nothing of that is left in the stamp. Where several segments came
before they were read, the note is of the last one. Knows no protocol.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from functools import cache

__all__ = ["KernelStamps"]

SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>; the socket module does not name it
ANCILLARY_BYTES = socket.CMSG_SPACE(16)
REFRESH_NS = 1_000_000_000
TRIES = 5
MOST_WAITS = 100
WAIT_S = 0.002
_timespec = struct.Struct("@ll").unpack_from


class KernelStamps:
    """The receiving side of a plain, connected socket.

    The kernel's notes are of the real-time clock. Both clocks run alike, so the distance between
    them is constant, except when somebody sets the real-time clock: it is taken again every second.
    """

    __slots__ = ("_offset_ns", "_recvmsg", "_taken_ns")

    def __init__(self, connected: socket.socket) -> None:
        self._recvmsg = connected.recvmsg
        self._offset_ns, self._taken_ns = _offset_ns(), time.monotonic_ns()

    @classmethod
    def of(cls, connected: socket.socket) -> KernelStamps | None:
        """None where the system does not do it."""
        if _witness() is None:
            return None
        connected.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        return cls(connected)

    def receive(self, most: int) -> tuple[int, bytes]:
        """When it came in (monotonic ns), and what `recv` gives; raises what `recv` raises."""
        data, notes, _, _ = self._recvmsg(most, ANCILLARY_BYTES)
        now_ns = time.monotonic_ns()
        if not notes:
            return now_ns, data
        if now_ns - self._taken_ns > REFRESH_NS:
            self._offset_ns, self._taken_ns = _offset_ns(), now_ns
        seconds, nanoseconds = _timespec(notes[0][2])
        return min(now_ns, seconds * 1_000_000_000 + nanoseconds - self._offset_ns), data


@cache
def _witness() -> socket.socket | None:
    """A socket whose reads were seen to be noted; None if none ever was.

    The kernel begins to take notes a moment after the first socket asks, and goes on as long as one
    is open, so this one stays open.
    """
    if sys.platform != "linux":
        return None
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sender = socket.create_connection(listener.getsockname())
            witness, _ = listener.accept()
    except OSError:  # no loopback, as in a bare network namespace
        return None
    with sender:
        try:
            witness.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            for _ in range(MOST_WAITS):
                sender.sendall(b"x")
                if witness.recvmsg(1, ANCILLARY_BYTES)[1]:
                    return witness
                time.sleep(WAIT_S)
        except OSError:
            pass
    witness.close()
    return None


def _offset_ns() -> int:
    """Real-time minus monotonic clock, from the least interrupted of several looks at both."""
    looks = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(TRIES)]
    before, real, after = min(looks, key=lambda look: look[2] - look[0])
    return real - (before + after) // 2
