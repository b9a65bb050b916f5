"""Who is next when an engine has fewer slots than there are requests: fair between clients.

The next free slot goes to the client that holds the fewest; where several hold equally many, to the
one that was served longest ago. A client's own requests keep their order. Requests that stepped
back (`priority` above 0) come after all that did not, whoever sent them.

The queue is bounded, and no client can fill it: each may hold as many places as it leaves free
(dynamic thresholds, Choudhury and Hahne 1998), so that a newcomer always finds room while the
heaviest client is told to come back later.

Pure bookkeeping: knows neither engines nor time.

    >>> queue = FairQueue(places=8)
    >>> for name, client in (("a1", "a"), ("a2", "a"), ("b1", "b")):
    ...     queue.push(name, client)
    >>> [queue.pop() for _ in range(3)]
    ['a1', 'b1', 'a2']
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

__all__ = ["FairQueue"]


class FairQueue:
    """Names of waiting requests, each with its client; counts the slots that clients hold."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._levels: dict[int, dict[str, dict[str, None]]] = {}  # priority, client, ordered names
        self._where: dict[str, tuple[int, str]] = {}
        self._waiting: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._turn = 0
        self._last_turn: dict[str, int] = {}  # of clients that wait or hold a slot

    def __len__(self) -> int:
        return len(self._where)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._where))

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def has_room(self, count: int, client: str) -> bool:
        """Whether `client` may queue `count` more."""
        return self._waiting[client] + count <= self.places - len(self._where)

    def push(self, name: str, client: str, priority: int = 0) -> None:
        """Queue `name` behind what its client has queued already."""
        self._levels.setdefault(priority, {}).setdefault(client, {})[name] = None
        self._where[name] = (priority, client)
        self._waiting[client] += 1
        self._last_turn.setdefault(client, 0)

    def pop(self) -> str:
        """The next one, whose client holds one more slot until `release`."""
        clients = self._levels[min(self._levels)]
        client = min(clients, key=lambda one: (self._held[one], self._last_turn[one]))
        name = next(iter(clients[client]))
        self._turn += 1
        self._held[client] += 1
        self._last_turn[client] = self._turn
        self.remove(name)
        return name

    def remove(self, name: str) -> bool:
        """Take `name` out of the queue; whether it was in it."""
        if name not in self._where:
            return False
        priority, client = self._where.pop(name)
        clients = self._levels[priority]
        del clients[client][name]
        if not clients[client]:
            del clients[client]
        if not clients:
            del self._levels[priority]
        self._waiting[client] -= 1
        self._forget(client)
        return True

    def release(self, client: str) -> None:
        """A slot of `client` is free again."""
        self._held[client] -= 1
        self._forget(client)

    def _forget(self, client: str) -> None:
        """Nothing is kept of clients that neither wait nor hold a slot."""
        if not self._waiting[client]:
            del self._waiting[client]
        if not self._held[client]:
            del self._held[client]
        if client not in self._waiting and client not in self._held:
            self._last_turn.pop(client, None)
