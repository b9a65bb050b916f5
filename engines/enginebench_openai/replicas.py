"""Several engines behind one port, to the server one link: each request goes to one of them.

To the one that has the longest beginning of the prompt in its prefix cache, as far as can be told
from here, unless it has clearly more to do than the others; else to the one with the least to do.

An engine that dies takes only its own requests with it: the others go on, and it is built again.
When that fails, or where dying is a result (no restarts), all of them end as one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol

from enginebench_openai.engine_counts import EngineCounts
from enginebench_openai.front import DEAD
from enginebench_openai.link import EngineLink
from enginebench_openai.loop import CacheFiled, Died, Event, FileCache, Refused, Started, Stepped
from enginebench_openai.protocol import EngineStats, GenerationRequest, TokenOutput

__all__ = ["Replicas", "Router"]

logger = logging.getLogger(__name__)

SHORTEST_PREFIX: Final = 64  # tokens; then twice as many, and so on
KNOWN_PREFIXES: Final = 1 << 14
SLACK: Final = 4  # requests more, or a quarter, that a replica may have for its cache's sake


class KillableLink(EngineLink, Protocol):
    """A link to an engine that can be ended at once."""

    def kill(self) -> None:
        """End it."""
        ...


class Router:
    """Chooses among replicas 0 to `count` - 1; knows what each has to do."""

    def __init__(self, count: int) -> None:
        self.out: dict[str, int] = {}  # request ids: their replica
        self.open = [False] * count
        self._loads = [0] * count
        self._homes: OrderedDict[int, int] = OrderedDict()  # hashes of prefixes: their replica

    def choose(self, request: GenerationRequest) -> int:
        """Where the request goes; it counts there until it `leaves`."""
        prefixes = list(_prefixes(request.prompt))
        candidates = [number for number, is_open in enumerate(self.open) if is_open]
        least = min(self._loads[number] for number in candidates)
        chosen = next((self._homes[p] for p in reversed(prefixes) if p in self._homes), None)
        if chosen not in candidates or self._loads[chosen] > least + max(SLACK, least // 4):
            chosen = min(candidates, key=lambda number: self._loads[number])
        for prefix in prefixes:
            self._homes[prefix] = chosen
            self._homes.move_to_end(prefix)
        while len(self._homes) > KNOWN_PREFIXES:
            self._homes.popitem(last=False)
        self.out[request.request_id] = chosen
        self._loads[chosen] += 1
        return chosen

    def leaves(self, request_id: str) -> int | None:
        """The request has ended; where it was."""
        replica = self.out.pop(request_id, None)
        if replica is not None:
            self._loads[replica] -= 1
        return replica

    def close(self, replica: int) -> list[str]:
        """The replica has died, and its cache with it; the requests that it had."""
        self.open[replica] = False
        lost = [name for name, where in self.out.items() if where == replica]
        for name in lost:
            self.leaves(name)
        self._homes = OrderedDict((p, r) for p, r in self._homes.items() if r != replica)
        return lost


class Replicas:
    """An `EngineLink` over several; `makes` make the way to each of them, again and again."""

    def __init__(
        self,
        makes: Sequence[Callable[[Callable[[Event], None]], KillableLink]],
        receive: Callable[[Event], None],
        *,
        restarts: bool,
    ) -> None:
        self._makes, self._receive, self._restarts = makes, receive, restarts
        self._router = Router(len(makes))
        self._links: list[KillableLink] = []
        self._counts = EngineCounts()
        self._started: list[Started | None] = [None] * len(makes)
        self._serving = self._ended = False

    @property
    def stats(self) -> EngineStats | None:
        """The sum over all replicas, what dead ones had counted included."""
        return self._counts.stats()

    def start(self) -> None:
        """Build all of them; they are ready together."""
        for number in range(len(self._makes)):
            self._links.append(self._make(number))
        for link in self._links:
            link.start()

    def add(self, requests: Iterable[GenerationRequest]) -> None:
        """Give each request to a replica."""
        for request in requests:
            self._links[self._router.choose(request)].add((request,))

    def abort(self, request_ids: Iterable[str]) -> None:
        """Tell the replicas that have them."""
        for name in request_ids:
            replica = self._router.leaves(name)
            if replica is not None:
                self._links[replica].abort((name,))

    def file_cache(self, command: FileCache) -> None:
        """A prompt is in one replica's cache or another's: there is no cache to keep."""
        reason = "several replicas keep no prompt cache in a file"
        self._receive(CacheFiled(command.ticket, 0, reason))

    def own_bytes(self) -> int | None:
        """What all of their processes hold in memory; None where one of them cannot be told."""
        held = [link.own_bytes() for link in self._links]
        known = [each for each in held if each is not None]
        return sum(known) if len(known) == len(held) else None

    async def close(self, timeout_s: float) -> bool:
        """End all of them."""
        self._ended = True
        return all(await asyncio.gather(*(link.close(timeout_s) for link in self._links)))

    def _make(self, number: int) -> KillableLink:
        link = self._makes[number](partial(self._take, number))
        self._counts.begin(str(number), link)
        return link

    def _take(self, number: int, event: Event) -> None:
        if self._ended:
            return
        if isinstance(event, Started):
            self._is_ready(number, event)
        elif isinstance(event, Died):
            self._has_died(number, event)
        else:
            for name in _ended_by(event):
                self._router.leaves(name)
            self._receive(event)

    def _is_ready(self, number: int, started: Started) -> None:
        self._started[number] = started
        self._router.open[number] = True
        ready = [one for one in self._started if one is not None]
        if self._serving or len(ready) < len(self._makes):
            return
        self._serving = True
        slots = [one.slots for one in ready if one.slots is not None]
        self._receive(
            Started(
                min(one.context_length for one in ready),
                frozenset.intersection(*(one.features for one in ready)),
                sum(slots) if len(slots) == len(ready) else None,
            )
        )

    def _has_died(self, number: int, death: Died) -> None:
        was_open = self._router.open[number]
        others = sum(self._router.open) - was_open
        if not (self._restarts and was_open and others):
            self._end(death)
            return
        logger.warning("replica %d has died (%s) and is built again", number, death.error)
        lost = self._router.close(number)
        outputs = [TokenOutput(name, (), "error", error=DEAD) for name in lost]
        self._receive(Stepped(outputs))
        self._links[number] = self._make(number)
        self._links[number].start()

    def _end(self, death: Died) -> None:
        self._ended = True
        for link in self._links:
            link.kill()
        self._receive(death)


def _prefixes(prompt: Sequence[int]) -> Iterator[int]:
    length = SHORTEST_PREFIX
    while length <= len(prompt):
        yield hash(tuple(prompt[:length]))
        length *= 2


def _ended_by(event: Stepped | Refused | CacheFiled) -> Iterator[str]:
    if isinstance(event, Refused):
        yield event.request_id
    elif isinstance(event, Stepped):
        for output in event.outputs:
            if output.finish_reason is not None:
                yield output.request_id
