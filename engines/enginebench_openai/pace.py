"""How fast requests end, and so when somebody who was refused should ask again."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Pace"]

WEIGHT: Final = 0.1
MAX_RETRY_AFTER_S: Final = 60


class Pace:
    """Seconds between requests that end, smoothed."""

    def __init__(self) -> None:
        self._between_s = self._ended_at = 0.0

    def ended(self, now: float) -> None:
        """A request has ended at `now`, in seconds."""
        if self._ended_at:
            self._between_s += WEIGHT * (now - self._ended_at - self._between_s)
        self._ended_at = now

    def retry_after_s(self, waiting: int) -> int:
        """When so many will have ended; at least a second and at most a minute."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(waiting * self._between_s)))
