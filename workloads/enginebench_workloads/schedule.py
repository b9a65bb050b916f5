"""Which request goes next, and when a cell is over. Shared by all users of a driver.

Everything runs on one thread (gevent switches only where a user waits), so plain attributes do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from enginebench.types import Budget

__all__ = ["Phase", "Schedule", "Window"]

Phase = Literal["warmup", "measure"]
Request = TypeVar("Request")


@dataclass(slots=True)
class Window:
    """The steady state.

    Closed loop: from the last user's first sending to the first user's last answer. Open loop, as
    if there were one user: from the first answer's end (before, the server only fills up) to the
    last sending.
    """

    users: int
    started: int = 0
    start_ns: int | None = None
    end_ns: int | None = None

    def user_started(self) -> None:
        """A user has sent its first measured request."""
        self.started += 1
        if self.started == self.users:
            self.start_ns = time.monotonic_ns()

    def user_stopped(self) -> None:
        """A user finds nothing more to send."""
        if self.end_ns is None:
            self.end_ns = time.monotonic_ns()

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """Both ends, or neither: a window that never was is not half a window."""
        if self.start_ns is None or self.end_ns is None or self.end_ns <= self.start_ns:
            return None, None
        return self.start_ns, self.end_ns


class Schedule(Generic[Request]):
    """Hands out requests in order: warm-up ones, then measured ones until the budget is spent.

    Later turns of conversations are no part of that order: `turns` has them by the index of the
    request that they follow, and they count against the budget like any other.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        budget: Budget,
        turns: Mapping[int, Request] | None = None,
    ) -> None:
        self._requests, self._budget, self._turns = requests, budget, turns or {}
        self._next = self._measured = 0
        self._measured_since_ns: int | None = None
        self._stopped = False

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopped = True

    def next_warmup(self) -> Request | None:
        """The next warm-up request; None when there is none left."""
        if self._stopped or self._next >= min(self._budget.warmup_requests, len(self._requests)):
            return None
        return self._take()

    def start_measuring(self) -> None:
        """From here on the budget's clock runs, and warm-up requests not taken are skipped."""
        self._next = min(self._budget.warmup_requests, len(self._requests))
        self._measured_since_ns = time.monotonic_ns()

    def next_measured(self, *, at_least_one: bool = False) -> Request | None:
        """The next measured request; None when the budget is spent or no request is left.

        `at_least_one` is asked for by a user that had none yet: it is not refused for the budget.
        """
        if self._stopped or self._next >= len(self._requests):
            return None
        if not at_least_one and self._spent():
            return None
        self._measured += 1
        return self._take()

    def turn_after(self, index: int) -> Request | None:
        """The turn that follows the request `index`, not handed out yet; None: there is none."""
        return self._turns.get(index)

    def take_turn(self) -> bool:
        """Whether a turn may be sent now; it is counted then."""
        if self._stopped or self._spent():
            return False
        self._measured += 1
        return True

    def _take(self) -> Request:
        request = self._requests[self._next]
        self._next += 1
        return request

    def _spent(self) -> bool:
        assert self._measured_since_ns is not None, "start_measuring comes first"
        if self._budget.requests is not None and self._measured >= self._budget.requests:
            return True
        limit_s = self._budget.duration_s
        elapsed_s = (time.monotonic_ns() - self._measured_since_ns) / 1e9
        return limit_s is not None and elapsed_s >= limit_s
