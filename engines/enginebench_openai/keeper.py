"""Keeps one model's engine: builds it, builds it again when it dies, and lets it go.

    unloaded -> loading -> ready -> unloaded      as the pool wishes
    ready -> restarting -> ready                  an engine that died, after a pause
    restarting -> dead                            tries used up

The pause doubles with each try. An engine that has served for `STEADY_S` starts with all tries
again. What the user can repair (`UsageError`) is not tried twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from enginebench.errors import BenchError, UsageError
from enginebench_openai.front import Front
from enginebench_openai.link import EngineLink, MakeLink
from enginebench_openai.loop import Died, Event, Started
from enginebench_openai.metrics import ServerMetrics

__all__ = ["Keeper"]

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 60.0
CLOSE_S: Final = 10.0


@dataclass(kw_only=True, eq=False)
class Keeper:
    """`on_ready` is told whenever the engine is there, `on_lost` when it will not come (back).
    `size_bytes` is how large its weights are.
    """

    model: str
    size_bytes: int
    front: Front
    make_link: MakeLink
    metrics: ServerMetrics
    restarts: int
    on_ready: Callable[[], None]
    on_lost: Callable[[BaseException], None]

    def __post_init__(self) -> None:
        self._link: EngineLink | None = None
        self._tries = 0
        self._ready_at = self._load_began_at = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._device_bytes = self._own_bytes = 0
        self.leaving = False

    @property
    def memory_bytes(self) -> int:
        """What the engine takes, or when it was last there took; before that, what its weights
        do. Memory of its process and of devices.
        """
        if self._link is not None and self.front.state == "ready":
            self._own_bytes = self._link.own_bytes() or self._own_bytes
        return (self._own_bytes + self._device_bytes) or self.size_bytes

    @property
    def holds_engine(self) -> bool:
        """Whether an engine takes memory, or is about to."""
        return self._link is not None or self._again is not None

    def load(self) -> None:
        """Build the engine."""
        self.front.state = "loading"
        self._load_began_at = time.monotonic()
        self._begin()

    async def unload(self) -> None:
        """Let the engine go; it has nothing to do."""
        self._own_bytes = self.memory_bytes - self._device_bytes
        self.leaving = True
        link, self._link = self._link, None
        self.front.close()
        assert link is not None
        try:
            await self._close(link)
        finally:
            self.leaving = False

    async def shut_down(self) -> None:
        """The server ends: no more tries. An engine that is being built is left alone."""
        if self._again is not None:
            self._again.cancel()
        if self._link is not None and self.front.state == "ready":
            await self._close(self._link)

    async def _close(self, link: EngineLink) -> None:
        if not await link.close(CLOSE_S):
            logger.warning("the engine of %s did not stop within %g s", self.model, CLOSE_S)
        self.metrics.engines.end(self.model)

    def _begin(self) -> None:
        self._again = None
        try:
            link = self.make_link(lambda event: self._take(link, event))
        except BenchError as error:  # there is no process that could fork it
            self._give_up(error)
            return
        self._link = link
        self.metrics.engines.begin(self.model, link)
        link.start()

    def _take(self, link: EngineLink, event: Event) -> None:
        if link is not self._link:  # told to leave, or dead
            return
        if isinstance(event, Started):
            self._ready_at, self._device_bytes = time.monotonic(), event.device_bytes
            self.metrics.loaded(self.model, self._ready_at - self._load_began_at)
            self.front.open(link, event)
            self.on_ready()
        elif isinstance(event, Died):
            self._link = None
            self.metrics.engines.end(self.model)
            self._died(event.error)
        else:
            self.front.receive(event)

    def _died(self, error: BaseException) -> None:
        error.__traceback__ = None  # it holds the engine's memory; the log has it
        served = self.front.state == "ready"
        if served and time.monotonic() - self._ready_at > STEADY_S:
            self._tries = 0
        never = not self.front.context_length
        if never or self._tries >= self.restarts or _is_for_the_user(error):
            self._give_up(error)
            return
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._tries)
        self._tries += 1
        logger.warning(
            "the engine of %s has died (%s); try %d of %d to restart it begins in %g s",
            self.model,
            error,
            self._tries,
            self.restarts,
            pause_s,
        )
        self.metrics.restarts[self.model] += 1
        self._load_began_at = time.monotonic()
        self.front.retry_after_s = round(pause_s) + 1
        self._again = asyncio.get_running_loop().call_later(pause_s, partial(self._begin))
        self.front.lose("restarting")

    def _give_up(self, error: BaseException) -> None:
        self.front.lose("dead")
        self.on_lost(error)


def _is_for_the_user(error: BaseException) -> bool:
    return isinstance(error, BenchError) and error.exit_code == UsageError.exit_code
