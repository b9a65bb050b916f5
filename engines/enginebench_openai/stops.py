"""Stop strings, found across token borders without ever showing a part of one.

Text is watched character by character (Knuth-Morris-Pratt, one state per stop string), so that the
result does not depend on how the text was cut into tokens: the stop string that is complete first
ends the text, the longest one where several end at the same character. What might still become a
stop string is held back.

    >>> watch = StopWatch(["END"])
    >>> watch.push("the E"), watch.push("ND."), watch.stopped
    ('the ', '', True)
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopWatch"]


class StopWatch:
    """Watches one text for any of several stop strings (none of them empty)."""

    __slots__ = ("_borders", "_first", "_held", "_matched", "_stops", "found", "stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._borders = tuple(_borders(stop) for stop in stops)
        self._first = {stop[0] for stop in stops}
        self._matched = [0] * len(self._stops)  # characters of each stop seen so far
        self._held = ""
        self.stopped = False
        self.found = ""  # the stop string that ended the text

    def push(self, text: str) -> str:
        """Take new text; return what can be shown for certain. Nothing after a stop string."""
        if self.stopped:
            return ""
        if not self._held and self._first.isdisjoint(text):
            return text
        seen = self._held + text
        for position, char in enumerate(text, start=len(self._held) + 1):
            length = self._advance(char)
            if length:
                self.stopped, self._held = True, ""
                self.found = seen[position - length : position]
                return seen[: position - length]
        shown = len(seen) - max(self._matched)
        self._held = seen[shown:]
        return seen[:shown]

    def finish(self) -> str:
        """The text has ended: what was held back was no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> int:
        """Length of the longest stop string that `char` completes, 0 for none."""
        complete = 0
        for index, stop in enumerate(self._stops):
            matched, borders = self._matched[index], self._borders[index]
            while matched and stop[matched] != char:
                matched = borders[matched - 1]
            if stop[matched] == char:
                matched += 1
            if matched == len(stop):
                complete = max(complete, matched)
                matched = borders[matched - 1]
            self._matched[index] = matched
        return complete


def _borders(stop: str) -> tuple[int, ...]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    matched = 0
    for index in range(1, len(stop)):
        while matched and stop[index] != stop[matched]:
            matched = borders[matched - 1]
        if stop[index] == stop[matched]:
            matched += 1
        borders[index] = matched
    return tuple(borders)
