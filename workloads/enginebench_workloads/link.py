"""A socket of the driver: cooperative, and read straight from the event loop.

A read costs the loop one callback and no switch of greenlets: `receive` lets the user's greenlet
sleep until its answer is whole. Each read is stamped with when the kernel received it, or,
encrypted and where the kernel does not tell, as soon as it is there. Knows no HTTP.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
from gevent.hub import Waiter

from enginebench_workloads.kernel_stamp import KernelStamps

__all__ = ["Link", "connect"]

READ_BYTES = 1 << 14
READABLE = 1
NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Take = Callable[[int, bytes], bool]


class Link:
    """A connected, non-blocking socket. All methods raise OSError.

    `in_kernel`: whether its reads are stamped by the kernel.
    """

    def __init__(self, connected: socket.socket, stamps: KernelStamps | None = None) -> None:
        self._socket = connected
        self.in_kernel = stamps is not None
        self._receive = stamps.receive if stamps is not None else self._receive_and_stamp
        self._watcher: Any = gevent.get_hub().loop.io(connected.fileno(), READABLE)

    def sendall(self, data: bytes) -> None:
        """Send everything, waiting as long as the server takes nothing."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except ssl.SSLWantReadError:
                gevent.socket.wait_read(self._socket.fileno())
            except NOT_YET:
                gevent.socket.wait_write(self._socket.fileno())

    def receive(self, take: Take) -> None:
        """Give every read to `take(monotonic ns, bytes)` until that says True; b"" is the end.

        What `take` raises is raised here.
        """
        waiter = Waiter()
        read = self._reading(take, waiter)
        self._watcher.start(read)
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                read()  # records that are decrypted already wake nobody
            waiter.get()
        finally:
            self._watcher.stop()

    def _reading(self, take: Take, waiter: Any) -> Callable[[], None]:
        receive, stop = self._receive, self._watcher.stop
        encrypted = isinstance(self._socket, ssl.SSLSocket)

        def read() -> None:
            try:
                while True:
                    if take(*receive(READ_BYTES)):
                        break
                    if not encrypted:
                        return
            except NOT_YET:
                return
            except Exception as error:  # noqa: BLE001 - raised again in the greenlet that waits
                stop()
                waiter.throw(error)
                return
            stop()
            waiter.switch(None)

        return read

    def _receive_and_stamp(self, most: int) -> tuple[int, bytes]:
        data = self._socket.recv(most)
        return time.monotonic_ns(), data

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._socket.close()


def connect(
    host: str, port: int, *, tls: bool, in_kernel: bool = True, timeout_s: float = 30.0
) -> Link:
    """A new connection, Nagle off, stamped in the kernel where that can be and is wanted.

    The timeout is for connecting only.
    """
    made = gevent.socket.create_connection((host, port), timeout=timeout_s)
    plain = socket.socket(made.family, made.type, made.proto, fileno=made.detach())
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setblocking(False)
    if not tls:
        return Link(plain, KernelStamps.of(plain) if in_kernel else None)
    with gevent.Timeout(timeout_s, TimeoutError(f"no TLS handshake within {timeout_s:g} s")):
        return Link(_encrypted(plain, host))


def _encrypted(plain: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    secured = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    while True:
        try:
            secured.do_handshake()
            return secured
        except ssl.SSLWantReadError:
            gevent.socket.wait_read(secured.fileno())
        except ssl.SSLWantWriteError:
            gevent.socket.wait_write(secured.fileno())
