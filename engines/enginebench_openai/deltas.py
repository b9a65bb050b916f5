"""What a chat's answer consists of once its text has been read: parts of a message, as they come.

A `Reader` turns text into deltas; readers can stand one behind the other, each reading the content
that the one before leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["CallArguments", "CallStart", "Content", "Delta", "Reader", "Reasoning", "held_back"]


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model thought aloud."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; its number in the message, and its id."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


Delta = Content | Reasoning | CallStart | CallArguments


class Reader(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> Sequence[Delta]:
        """What new text amounts to."""
        ...

    def finish(self) -> Sequence[Delta]:
        """The text has ended: what was held back."""
        ...


def held_back(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` that may become one of the markers."""
    longest = min(len(text), max(map(len, markers)) - 1)
    for length in range(longest, 0, -1):
        if any(marker.startswith(text[-length:]) for marker in markers):
            return length
    return 0
