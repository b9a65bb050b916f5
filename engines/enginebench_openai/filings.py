"""Who waits for the engine's prompt cache to be kept in a file, or to be filled from one.

Lives in the event loop's thread; the engine answers some time later, by ticket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from enginebench_openai.errors import ApiError
from enginebench_openai.loop import CacheAction, CacheFiled, FileCache

__all__ = ["Filings"]


class Filings:
    """The commands that the engine has not answered yet; their number is its `len`."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[int]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    async def file(self, send: Callable[[FileCache], None], action: CacheAction, path: Path) -> int:
        """Send the command and wait for its answer, the number of tokens; ApiError if it failed."""
        filing: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        ticket = uuid4().hex
        self._asked[ticket] = filing
        send(FileCache(ticket, action, str(path)))
        try:
            return await filing
        finally:
            del self._asked[ticket]

    def settle(self, event: CacheFiled) -> None:
        """Take the engine's answer; whoever asked may have gone."""
        filing = self._asked.get(event.ticket)
        if filing is None or filing.done():
            return
        if event.error is None:
            filing.set_result(event.tokens)
        else:
            filing.set_exception(ApiError(400, event.error, code="slot_file"))

    def fail(self, reason: str) -> None:
        """There is no engine any more that could answer."""
        for ticket in self._asked:
            self.settle(CacheFiled(ticket, 0, reason))
