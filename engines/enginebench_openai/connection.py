"""An HTTP connection that does not wait for ever on its client.

uvicorn's own protocol gives up on idle connections only. Two more kinds hold a place and a file
descriptor for as long as they please: a client that begins a request and never finishes its
headers, and one that asks for an answer and does not read it. Both are hung up on after the same
time. (The rest of a request's body is awaited by `read_body`, which can still answer.)

It costs nothing per token: timers are set when a request begins and when a buffer is full.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["connection_class"]


def connection_class(stall_timeout_s: float) -> type[HttpToolsProtocol]:
    """The protocol for uvicorn's `http` option."""

    class Connection(HttpToolsProtocol):
        _stalled: asyncio.TimerHandle | None = None
        _silent: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._have_headers()
            self._can_write()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._silent is None:
                self._await_headers()

        def on_headers_complete(self) -> None:
            self._have_headers()
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled = self.loop.call_later(stall_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._can_write()
            super().resume_writing()

        def _await_headers(self) -> None:
            self._silent = self.loop.call_later(stall_timeout_s, self.transport.close)

        def _have_headers(self) -> None:
            if self._silent is not None:
                self._silent.cancel()
                self._silent = None

        def _can_write(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

    return Connection
