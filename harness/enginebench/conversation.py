"""A conversation: its turns, what they cost, and its file. Knows no server and no terminal.

talk = Conversation(system="Be brief.")
talk.ask("Hello")
talk.messages()                # what a server is sent
talk.answered(Answer("Hi!", ...))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from enginebench.errors import UsageError
from enginebench.types import Message

__all__ = ["Answer", "Conversation"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole or cut short. `tokens` as the server counted them, None if it did not."""

    text: str
    tokens: int | None
    first_s: float | None
    total_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token, whose wait is `first_s`."""
        if self.tokens is None or self.first_s is None or self.total_s <= self.first_s:
            return None
        return (self.tokens - 1) / (self.total_s - self.first_s)

    def __str__(self) -> str:
        tokens = "tokens not counted" if self.tokens is None else f"{self.tokens} tokens"
        first = "" if self.first_s is None else f", first after {self.first_s:.2f} s"
        rate = "" if self.tokens_per_s is None else f", then {self.tokens_per_s:.1f} tokens/s"
        return f"{tokens}{first}{rate}"


@dataclass(slots=True)
class Conversation:
    """Turns of user and assistant, in order; the system prompt stands apart."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def messages(self) -> list[Message]:
        """Everything, as a server is sent it."""
        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    def ask(self, text: str) -> None:
        """The user's next turn."""
        self.turns.append(Message("user", text))

    def answered(self, answer: Answer) -> None:
        """The assistant's turn; one without any text takes the question back as well."""
        self.answers.append(answer)
        if answer.text:
            self.turns.append(Message("assistant", answer.text))
        else:
            self.unask()

    def unask(self) -> None:
        """Forget a question that got no answer."""
        self.turns.pop()

    def reset(self) -> None:
        """Forget all turns; the system prompt and the figures stay."""
        self.turns.clear()

    def save(self, path: Path) -> None:
        """Write the messages as JSON: a list of role and content."""
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self.messages())) + b"\n")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Go on with a saved conversation; raises UsageError, and keeps this one, if it is none."""
        try:
            messages = msgspec.json.decode(path.read_bytes(), type=list[Message])
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise UsageError(f"{path} is no conversation: {error}") from error
        system = [message.content for message in messages if message.role == "system"]
        self.system = "\n".join(system) or None
        self.turns = [message for message in messages if message.role != "system"]

    def summary(self) -> str:
        """All answers so far in one line."""
        counted = [answer for answer in self.answers if answer.tokens_per_s is not None]
        tokens = sum(answer.tokens or 0 for answer in self.answers)
        spent_s = sum(answer.total_s - (answer.first_s or 0) for answer in counted)
        rated = sum((answer.tokens or 1) - 1 for answer in counted)
        rate = f", {rated / spent_s:.1f} tokens/s after the first of each" if spent_s else ""
        return f"{len(self.answers)} answers, {tokens} tokens{rate}"
