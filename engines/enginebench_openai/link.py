"""What the server needs of whatever runs an engine: a thread, or a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from enginebench_openai.loop import Event, FileCache
from enginebench_openai.protocol import EngineStats, GenerationRequest

__all__ = ["EngineLink", "MakeLink"]


class EngineLink(Protocol):
    """The way to one engine; none of it blocks."""

    @property
    def stats(self) -> EngineStats | None:
        """As of the last step; None before the engine has told any."""
        ...

    def start(self) -> None:
        """Begin to build the engine; events tell how it went."""
        ...

    def add(self, requests: Iterable[GenerationRequest]) -> None:
        """Queue requests."""
        ...

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget requests before the next step."""
        ...

    def file_cache(self, command: FileCache) -> None:
        """Save or restore the prompt cache."""
        ...

    def own_bytes(self) -> int | None:
        """What the engine's process holds in memory; None where it cannot be told."""
        ...

    async def close(self, timeout_s: float) -> bool:
        """End the engine after the step it is in; False if that took too long."""
        ...


# Makes the way to a new engine, which gives its events to the receiver.
MakeLink = Callable[[Callable[[Event], None]], EngineLink]
