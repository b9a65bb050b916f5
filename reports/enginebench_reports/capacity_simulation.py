"""Replicas behind one dispatcher: what users would see, simulated request by request.

A replica works on up to `slots` requests at once, each at the pace that was measured for so many;
others queue, first come, first served. A new request goes to the replica that holds fewest. Prompts
are computed one after the other, the first of them behind half a step of those that answer already;
all that have a first token go on together. So one clock for prompts and one for tokens, which run
faster or slower, tell when each is done (processor sharing in virtual time): an event costs
O(log n), and a million requests are simulated in seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from enginebench_reports.capacity_curve import ServiceCurve
from enginebench_reports.measured import Floats

__all__ = ["Served", "poisson_times", "simulate"]


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """Of each request in order of arrival, in seconds."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats


def poisson_times(rate_rps: float, count: int, seed: int) -> Floats:
    """When `count` independent users come: seconds from the start."""
    gaps = np.random.default_rng(seed).exponential(1.0 / rate_rps, count)
    return np.cumsum(gaps)


def simulate(curve: ServiceCurve, arrivals_s: Floats, replicas: int) -> Served:
    """Serve requests that arrive at these times (ascending) with so many replicas."""
    first_s, end_s = np.empty((2, len(arrivals_s)))
    fleet = _Fleet([_Replica(curve, first_s, end_s) for _ in range(replicas)])
    for request, now in enumerate(arrivals_s.tolist()):
        fleet.advance(now)
        fleet.take(request, now)
    fleet.advance(math.inf)
    later = max(1.0, curve.output_tokens - 1)
    tpot_s = (end_s - first_s) / later if curve.output_tokens > 1 else np.zeros_like(end_s)
    return Served(first_s - arrivals_s, tpot_s, end_s - arrivals_s)


class _Fleet:
    """Touches a replica only when it is done with something, or gets a request."""

    def __init__(self, replicas: list[_Replica]) -> None:
        self._replicas = replicas
        self._held = [0] * len(replicas)
        self._due: list[tuple[float, int]] = []  # when, which; out of date unless it is its `next`
        self._next = [math.inf] * len(replicas)

    def advance(self, until_s: float) -> None:
        """Let time pass for all that are done with something by then."""
        while self._due and self._due[0][0] <= until_s:
            when, place = heapq.heappop(self._due)
            if when == self._next[place]:
                self._replicas[place].advance(when)
                self._look(place)

    def take(self, request: int, now_s: float) -> None:
        """Give a request to the replica that holds fewest."""
        place = self._held.index(min(self._held))
        self._replicas[place].advance(now_s)
        self._replicas[place].take(request)
        self._look(place)

    def _look(self, place: int) -> None:
        replica = self._replicas[place]
        self._held[place] = len(replica)
        self._next[place] = replica.next_s
        if replica.next_s < math.inf:
            heapq.heappush(self._due, (replica.next_s, place))


class _Replica:
    """Requests that prefill, that decode, and that wait. `len` of it is how many it holds."""

    def __init__(self, curve: ServiceCurve, first_s: Floats, end_s: Floats) -> None:
        self._prompt_rates = (1.0 / curve.prompt_s).tolist()  # prompts per second
        self._token_rates = (1.0 / curve.token_s).tolist()
        self._slots, self._later = curve.slots, max(0.0, curve.output_tokens - 1)
        self._first_s, self._end_s = first_s, end_s
        self._prefilling: deque[int] = deque()  # the first is computed, the others are next
        self._decoding: list[tuple[float, int]] = []  # (done at this token clock, request)
        self._waiting: deque[int] = deque()
        self._now_s = self._prompt_left = self._token_clock = 0.0  # left: of the first, from 1 to 0

    def __len__(self) -> int:
        return self._busy + len(self._waiting)

    @property
    def next_s(self) -> float:
        """When the next request is done with its phase, if none comes before; inf: never."""
        done = [math.inf]
        if self._prefilling:
            done.append(self._prompt_left / self._prompt_rates[self._busy - 1])
        if self._decoding:
            left = self._decoding[0][0] - self._token_clock
            done.append(left / self._token_rates[self._busy - 1])
        return self._now_s + max(0.0, min(done))

    def take(self, request: int) -> None:
        """One that arrives now."""
        if self._busy < self._slots:
            self._begin_prompt(request)
        else:
            self._waiting.append(request)

    def _begin_prompt(self, request: int) -> None:
        if not self._prefilling:
            self._prompt_left = 1.0 + self._step_under_way()
        self._prefilling.append(request)

    def _step_under_way(self) -> float:
        """What is left of it on average, half a token's time, in prompts: it is not interrupted."""
        if not self._decoding:
            return 0.0
        busy = self._busy - 1
        return float(0.5 * self._prompt_rates[busy] / self._token_rates[busy])

    def advance(self, until_s: float) -> None:
        """Let time pass, through everything that is done by then."""
        while self._busy and (next_s := self.next_s) <= until_s:
            self._pass(next_s)
            self._finish()
        self._pass(until_s)

    @property
    def _busy(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    def _pass(self, until_s: float) -> None:
        if self._busy:
            seconds = until_s - self._now_s
            self._prompt_left -= seconds * self._prompt_rates[self._busy - 1]
            self._token_clock += seconds * self._token_rates[self._busy - 1]
        self._now_s = until_s

    def _finish(self) -> None:
        """Take the one that is done on; the clocks stand where it is, but for rounding."""
        if self._is_prefill_next():
            request, self._prompt_left = self._prefilling.popleft(), 1.0
            self._first_s[request] = self._now_s
            heapq.heappush(self._decoding, (self._token_clock + self._later, request))
        else:
            _, request = heapq.heappop(self._decoding)
            self._end_s[request] = self._now_s
            if self._waiting:
                self.take(self._waiting.popleft())

    def _is_prefill_next(self) -> bool:
        if not (self._prefilling and self._decoding):
            return bool(self._prefilling)
        busy = self._busy - 1
        tokens_left = (self._decoding[0][0] - self._token_clock) / self._token_rates[busy]
        return self._prompt_left / self._prompt_rates[busy] <= tokens_left  # type: ignore[no-any-return]
