"""Who waits for a model to be loaded for the first time, which alone tells what it can do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from enginebench_openai.errors import ApiError

__all__ = ["Visitors"]


class Visitors:
    """Their number is its `len`."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, announce: Callable[[], None], timeout_s: float | None) -> None:
        """Until `let_in`; TimeoutError, or the error of `turn_away`. `announce` is called once
        the visitor counts.
        """
        visitor = asyncio.get_running_loop().create_future()
        self._waiting.add(visitor)
        announce()
        try:
            await asyncio.wait_for(visitor, timeout_s)
        finally:
            self._waiting.discard(visitor)

    def let_in(self) -> None:
        """The model is there."""
        for visitor in self._waiting:
            if not visitor.done():
                visitor.set_result(None)

    def turn_away(self, error: ApiError) -> None:
        """The model will not come."""
        for visitor in self._waiting:
            if not visitor.done():
                visitor.set_exception(error)
