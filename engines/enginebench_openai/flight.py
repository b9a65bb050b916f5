"""One HTTP request in flight: its generations, and how its handler waits for news of them.

The front wakes a flight from the event loop; a handler that is slow to come back finds everything
that has arrived meanwhile at once, so a lagging reader gets fewer, larger chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from enginebench_openai.generation import Generation

__all__ = ["Flight"]


class Flight:
    """Generations that answer one request together. `arrived_at` is on time.perf_counter.

    `streaming` False wakes the handler once, when all of it is done. `client` is who asked, for
    fairness; `priority` above 0 steps back behind everybody with less.
    """

    __slots__ = (
        "_news",
        "_waiter",
        "abandoned",
        "arrived_at",
        "client",
        "generations",
        "priority",
        "streaming",
        "timers",
        "unfinished",
    )

    def __init__(
        self,
        generations: Sequence[Generation],
        *,
        streaming: bool,
        arrived_at: float,
        client: str = "",
        priority: int = 0,
    ) -> None:
        self.generations = tuple(generations)
        self.streaming = streaming
        self.arrived_at = arrived_at
        self.client, self.priority = client, priority
        self.timers: list[asyncio.TimerHandle] = []  # the front's
        self.unfinished = len(self.generations)
        self.abandoned = False
        self._news: dict[Generation, None] = {}  # an ordered set
        self._waiter: asyncio.Future[None] | None = None

    @property
    def failure(self) -> Generation | None:
        """The first generation that ended with an error."""
        for generation in self.generations:
            if generation.error is not None:
                return generation
        return None

    async def news(self) -> Sequence[Generation]:
        """Generations with something new since the last call; empty when the client has gone."""
        while not self._ready():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        news = tuple(self._news)
        self._news.clear()
        return () if self.abandoned else news

    def tell(self, generation: Generation) -> None:
        """`generation` has text or has ended."""
        if generation.finish_reason is not None:
            self.unfinished -= 1
        self._news[generation] = None
        self._wake()

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.abandoned = True
        self._wake()

    def _ready(self) -> bool:
        if self.abandoned or self.unfinished == 0:
            return True
        return self.streaming and bool(self._news)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and self._ready():
            self._waiter.set_result(None)
