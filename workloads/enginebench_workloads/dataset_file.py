"""Prompts from a local file: what a row of each format means.

- `sharegpt`: a JSON list of objects with `conversations`, a list of `from` and `value`. The prompt
  is what comes before the first answer (`gpt` and the like); what stands between later answers are
  later turns.
- `jsonl`: a JSON object a line with `prompt` (text), `messages` (`role`, `content`) or `turns` (all
  that a user says, one text a turn), and perhaps `max_tokens`.
- `text`: a prompt a line.

Further fields are ignored. A conversation without a question has no prompt: that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from enginebench.types import Message
from enginebench_workloads.data_file import DataFile, bad_row

__all__ = ["Format", "Row", "read_dataset"]

Format = Literal["sharegpt", "jsonl", "text"]
ROLES = {"human": "user", "user": "user", "system": "system"}
ANSWERS = frozenset({"gpt", "assistant", "chatgpt", "bing", "bard", "model"})


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt: messages, or text without a role. `max_tokens` None: the row does not say.

    `later` are the turns that came after the answer to it, without the answers.
    """

    line: int
    prompt: str | tuple[Message, ...]
    max_tokens: int | None = None
    later: tuple[tuple[Message, ...], ...] = ()


class _Turn(msgspec.Struct):
    speaker: str = msgspec.field(name="from")
    value: str


class _Conversation(msgspec.Struct):
    conversations: list[_Turn]


class _Message(msgspec.Struct):
    role: str
    content: str


class _Line(msgspec.Struct):
    prompt: str | None = None
    messages: list[_Message] | None = None
    turns: list[str] | None = None
    max_tokens: int | None = None


def read_dataset(path: Path, format: Format | None) -> Sequence[Row]:
    """All rows; `format` None: as the beginning of the file looks.

    Raises UsageError, naming file and line, for the first row that cannot be used.
    """
    changed_ns = path.stat().st_mtime_ns if path.exists() else 0
    return _read(path, format, changed_ns)


@lru_cache(maxsize=2)
def _read(path: Path, format: Format | None, changed_ns: int) -> Sequence[Row]:
    file = DataFile.read(path)
    readers = {"sharegpt": _conversations, "jsonl": _lines, "text": _texts}
    return tuple(readers[format or _looks_like(file)](file))


def _looks_like(file: DataFile) -> Format:
    first = file.text.lstrip()[0]
    return "sharegpt" if first == "[" else "jsonl" if first == "{" else "text"


def _conversations(file: DataFile) -> Iterator[Row]:
    decode = msgspec.json.Decoder(_Conversation).decode
    for line, element in file.elements():
        try:
            turns = decode(element).conversations
        except msgspec.DecodeError as error:
            raise bad_row(file.path, line, f"not a conversation: {error}") from None
        first, *later = _said(file.path, line, turns)
        if not _asks(first):
            raise bad_row(file.path, line, "the conversation has no question")
        yield Row(line, first, later=tuple(turn for turn in later if _asks(turn)))


def _said(path: Path, line: int, turns: Sequence[_Turn]) -> list[tuple[Message, ...]]:
    """What stands between the answers; some conversations are cut, and begin with an answer."""
    said: list[tuple[Message, ...]] = [()]
    for turn in turns:
        if turn.speaker in ANSWERS:
            said += [()] * bool(said[-1])
        elif turn.speaker in ROLES:
            said[-1] += (Message(ROLES[turn.speaker], turn.value),)
        else:
            known = ", ".join(sorted({*ROLES, *ANSWERS}))
            raise bad_row(path, line, f"unknown speaker {turn.speaker!r} (known: {known})")
    return said


def _asks(messages: Sequence[Message]) -> bool:
    return any(message.role == "user" and message.content.strip() for message in messages)


def _lines(file: DataFile) -> Iterator[Row]:
    decode = msgspec.json.Decoder(_Line).decode
    for number, text in file.lines():
        try:
            line = decode(text)
        except msgspec.DecodeError as error:
            raise bad_row(file.path, number, f"not a row: {error}") from None
        if [line.prompt, line.messages, line.turns].count(None) != 2:
            raise bad_row(file.path, number, "a row has either a prompt, messages or turns")
        turns = [(Message("user", text),) for text in line.turns or ()]
        messages = tuple(Message(m.role, m.content) for m in line.messages or ())
        prompt = line.prompt or messages or (turns[0] if turns else ())
        if not prompt or not all(turn[0].content.strip() for turn in turns):
            raise bad_row(file.path, number, "the prompt is empty")
        if line.max_tokens is not None and line.max_tokens < 1:
            raise bad_row(file.path, number, f"max_tokens {line.max_tokens}: must be at least 1")
        yield Row(number, prompt, line.max_tokens, tuple(turns[1:]))


def _texts(file: DataFile) -> Iterator[Row]:
    return (Row(number, text) for number, text in file.lines())
