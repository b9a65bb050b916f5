"""Whether warming up is over: when answers have stopped getting faster.

The first answers of a server are slow for reasons that never come back: kernels are compiled,
graphs captured, memory is touched for the first time. How many those are is seen, not guessed:
warming up is over when the paces of the last `LOOKED_AT` answers (time for each piece of the
stream) agree.
Knows no clock and no server.
"""

from __future__ import annotations

__all__ = ["WarmUp"]

LOOKED_AT = 3
AGREE_WITHIN = 0.1


class WarmUp:
    """Told of every warm-up answer; without `until_steady` it takes them all to be needed."""

    def __init__(self, *, until_steady: bool) -> None:
        self._until_steady = until_steady
        self._paces: list[float] = []

    def note(self, took_ns: int, pieces: int) -> None:
        """An answer came in `pieces` pieces; one of none, an error say, tells nothing."""
        if pieces:
            self._paces.append(took_ns / pieces)

    @property
    def over(self) -> bool:
        """Whether the last answers came at one pace."""
        last = self._paces[-LOOKED_AT:]
        if not self._until_steady or len(last) < LOOKED_AT:
            return False
        return max(last) <= min(last) * (1 + AGREE_WITHIN)

    def __str__(self) -> str:
        steady = "steady" if self.over else "not steady yet"
        return f"warm-up: {steady} after {len(self._paces)} answers"
