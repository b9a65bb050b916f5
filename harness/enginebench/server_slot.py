"""The one server that runs at a time, kept from cell to cell where their specs are equal."""

from __future__ import annotations

import os
from pathlib import Path

from enginebench.answers import Answers
from enginebench.atomic import write_bytes
from enginebench.process import log_tail
from enginebench.server import Server
from enginebench.types import EngineSpec

__all__ = ["ServerSlot"]


class ServerSlot:
    """Holds a running server, or none. Whoever owns the slot stops it at the end.

    `answers` are those of the running server, once it was asked.
    """

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._server: Server | None = None
        self._log_start = 0
        self.answers: Answers | None = None

    def put(self, spec: EngineSpec, server: Server) -> None:
        """Hold `server`, which was started for `spec`."""
        assert self._server is None, "a server is running"
        self._spec, self._server, self._log_start = spec, server, 0

    def take(self, spec: EngineSpec) -> Server | None:
        """The running server if it was started for an equal spec; any other one is stopped."""
        server = self._server
        if server is not None and self._spec == spec and self.exit_code is None:
            self._log_start = server.log.stat().st_size if server.log.exists() else 0
            return server
        self.stop()
        return None

    @property
    def exit_code(self) -> int | None:
        """The server's exit code, if there is one and it has ended by itself."""
        process = self._server.process if self._server else None
        return process.exit_code if process else None

    def log_tail(self) -> str:
        """The last lines of the server's log; empty without a server."""
        return log_tail(self._server.log) if self._server else ""

    def share_log(self, path: Path) -> None:
        """Give a cell that found the server running its own part of the server's log."""
        if self._server is None or self._server.log == path or not self._server.log.exists():
            return
        with self._server.log.open("rb") as file:
            file.seek(self._log_start, os.SEEK_SET)
            write_bytes(path, file.read())

    def stop(self) -> None:
        """Stop the server, if there is one."""
        server, self._server, self._spec = self._server, None, None
        self.answers = None
        if server is not None:
            server.stop()
