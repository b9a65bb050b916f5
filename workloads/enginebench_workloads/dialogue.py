"""A conversation: how it is planned as requests, and what it has become when a turn is sent.

    requests = as_requests(conversations, due_s, body)       # planned: each turn's new words only
    dialogue = Dialogue(first)                               # driven: history with the real answers
    second = dialogue.turn("what was answered", planned_second)

Knows no clock and no socket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from enginebench.types import Message, Request

__all__ = ["Dialogue", "Turn", "as_requests"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user says (a system prompt before it, in the first turn), `think_s` after the answer
    to the turn before.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    think_s: float = 0.0


def as_requests(
    conversations: Iterable[Sequence[Turn]],
    due_s: Iterable[float | None],
    body: Mapping[str, Any],
) -> Iterator[Request]:
    """The requests of all conversations, one conversation behind the other.

    `due_s` is when each conversation begins: None for as soon as its user is free.
    """
    index = 0
    for turns, start_s in zip(conversations, due_s, strict=False):
        first = index
        for turn in turns:
            yield Request(
                index,
                turn.messages,
                turn.max_tokens,
                start_s if index == first else None,
                body,
                None if index == first else index - 1,
                turn.think_s if index > first else 0.0,
            )
            index += 1


class Dialogue:
    """One conversation under way."""

    def __init__(self, first: Request) -> None:
        self._messages: tuple[Any, ...] = tuple(first.prompt)

    def turn(self, answer: str, following: Request) -> Request:
        """`following` behind everything that was said, the `answer` to the last turn included."""
        said = (Message("assistant", answer), *following.prompt)
        self._messages = (*self._messages, *said)
        return replace(following, prompt=self._messages)
