"""Reads one tool call, a JSON object with a name and arguments, as it is being written.

The arguments are handed on as the model writes them, character by character, as soon as the name is
known. An object without a name is no call: its text is given back as content.
"""

from __future__ import annotations

import json
from typing import Final

__all__ = ["CallScanner"]

_ARGUMENTS: Final = ("arguments", "parameters")


class CallScanner:
    """Of one object. `name` is set when it has been read; `take` gives new text of arguments."""

    def __init__(self, name: str | None = None) -> None:
        """With a `name` that is known already, the object is the arguments."""
        self.name = name
        self.done = False
        self.raw = ""
        self._arguments = ""
        self._said_any = False
        self._depth = 0
        self._in_string = self._escaped = False
        self.is_bare = name is not None  # of a name
        self._key: str | None = None  # None: a key is expected
        self._token = ""  # the key, or a value that is needed whole
        self._is_raw = False  # the value under way is handed on as it is written

    def push(self, char: str) -> None:
        """One more character; the first is the object's brace."""
        self.raw += char
        if self.is_bare:
            self._arguments += char
        if self._in_string:
            self._string(char)
        elif char == '"':
            self._in_string = True
            self._value(char)
        elif char in "{[":
            self._depth += 1
            if self._depth > 1:
                self._value(char)
        elif char in "}]":
            self._close(char)
        elif self._depth > 1:
            self._value(char)
        elif self.is_bare:
            pass
        elif char == ":":
            self._key, self._token = _loads(self._token), ""
        elif char == ",":
            self._end_value()
        elif not char.isspace():
            self._value(char)

    def take(self) -> str:
        """Arguments since the last call; nothing before the name is known."""
        if self.name is None:
            return ""
        new, self._arguments = self._arguments, ""
        if self.done and not new and not self._said_any:
            new = "{}"
        self._said_any |= bool(new)
        return new

    def _string(self, char: str) -> None:
        self._value(char)
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False

    def _close(self, char: str) -> None:
        self._depth -= 1
        if self._depth:
            self._value(char)
        else:
            self._end_value()
            self.done = True

    def _value(self, char: str) -> None:
        if self.is_bare:
            return
        quoted = self._token or (char == '"' and not self._is_raw)
        if self._key in _ARGUMENTS and not quoted:
            self._is_raw = True
            self._arguments += char
        else:
            self._token += char

    def _end_value(self) -> None:
        """A value of the object is complete. Arguments may be JSON inside of a string."""
        if self.is_bare:
            return
        if self._key == "name":
            self.name = _loads(self._token)
        elif self._key in _ARGUMENTS and self._token:
            self._arguments += _loads(self._token) or ""
        self._key, self._token, self._is_raw = None, "", False


def _loads(token: str) -> str | None:
    """The text of a JSON string; None for anything else."""
    try:
        value = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
