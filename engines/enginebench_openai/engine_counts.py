"""What all engines of a server have counted, together, over all of their lives.

An engine counts from 0 each time it is built; a counter that falls when an engine is restarted or
unloaded would read as traffic that never was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from enginebench_openai.protocol import EngineStats

if TYPE_CHECKING:
    from enginebench_openai.link import EngineLink

__all__ = ["EngineCounts"]

_NAMES: Final = tuple(field.name for field in fields(EngineStats))
_COUNTERS: Final = frozenset(
    {
        "prompt_tokens_total",
        "generated_tokens_total",
        "prefix_cache_queried_tokens_total",
        "prefix_cache_hit_tokens_total",
        "preemptions_total",
        "draft_tokens_total",
        "accepted_draft_tokens_total",
    }
)


class EngineCounts:
    """Engines come with `begin` and go with `end`; `stats` is None until one has told anything."""

    def __init__(self) -> None:
        self._past: Counter[str] = Counter()
        self._links: dict[str, EngineLink] = {}

    def begin(self, model: str, link: EngineLink) -> None:
        """`link` is the engine of `model` from now on."""
        self.end(model)
        self._links[model] = link

    def end(self, model: str) -> None:
        """The engine of `model` is gone; what it counted stays."""
        link = self._links.pop(model, None)
        if link is not None and link.stats is not None:
            self._past.update(
                {name: value for name, value in _told(link.stats) if name in _COUNTERS}
            )

    def stats(self) -> EngineStats | None:
        """The sum; None for what no engine has told."""
        told = [link.stats for link in self._links.values() if link.stats is not None]
        if len(told) == 1 and not self._past:
            return told[0]
        if not told and not self._past:
            return None
        # the counts of requests are told even while no engine is there
        total: Counter[str] = Counter({"running_requests": 0, "waiting_requests": 0, **self._past})
        for stats in told:
            total.update(dict(_told(stats)))
        found: dict[str, Any] = {name: total.get(name) for name in _NAMES}
        return EngineStats(**found)


def _told(stats: EngineStats) -> Iterator[tuple[str, int]]:
    for name in _NAMES:
        value = getattr(stats, name)
        if value is not None:
            yield name, value
