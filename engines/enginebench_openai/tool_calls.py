"""Finds tool calls in a model's text, in the notation of its family.

Hermes, Qwen    <tool_call>{"name": ..., "arguments": {...}}</tool_call>, any number of them
Mistral         [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or, since its tokenizer v11,
                [TOOL_CALLS]name[ARGS]{...}, with [CALL_ID]id before [ARGS], any number of them
Llama 3         {"name": ..., "parameters": {...}}, alone or after <|python_tag|>
forced          [{"name": ..., "parameters": {...}}, ...]: what a grammar makes of `tool_choice`
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from enginebench_openai.call_scanner import CallScanner
from enginebench_openai.deltas import CallArguments, CallStart, Content, Delta, held_back

__all__ = ["FORCED", "HERMES", "LLAMA3", "MISTRAL", "ToolCallReader", "ToolFormat", "format_of"]

_SEPARATORS: Final = "[],;"
_MOST_NAME_CHARS: Final = 300  # of a name and an id; what is longer is no call
_LETTERS: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`opener` comes before calls, `closer` after each. `bare`: an answer that begins with one of
    these characters is a call without an opener. `named`: what stands between a call's name, which
    comes first, and its arguments; `identified`: what stands before its id, between the two."""

    opener: str | None
    closer: str | None = None
    bare: str = ""
    id_prefix: str = "call_"
    id_letters: int = 24
    named: str | None = None
    identified: str | None = None


HERMES: Final = ToolFormat("<tool_call>", "</tool_call>")
MISTRAL: Final = ToolFormat(
    "[TOOL_CALLS]",
    id_prefix="",
    id_letters=9,  # its template asks for 9
    named="[ARGS]",
    identified="[CALL_ID]",
)
LLAMA3: Final = ToolFormat("<|python_tag|>", bare="{")
FORCED: Final = ToolFormat(None, bare="[{")


def format_of(template: str) -> ToolFormat | None:
    """The notation that a chat template teaches its model; None: it knows no tools."""
    if "tools" not in template:
        return None
    if "<tool_call>" in template:
        return HERMES
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<|python_tag|>" in template or '"parameters"' in template:
        return LLAMA3
    return None


class ToolCallReader:
    """A `Reader` of one answer."""

    def __init__(self, format: ToolFormat, most_calls: int | None = None) -> None:
        """After `most_calls` nothing more is read."""
        self._format, self._most_calls = format, most_calls
        self._held = ""  # content that may be the beginning of an opener
        self._between = ""  # what was read since the last call, where another may follow
        self._in_calls = False
        self._said_any = False  # content other than white space
        self._calls = 0
        self._scanner: CallScanner | None = None

    def push(self, text: str) -> list[Delta]:
        """What can be told for certain."""
        found: list[Delta] = []
        while text and self._calls != self._most_calls:
            if self._scanner is not None:
                text = self._scan(self._scanner, text, found)
            elif self._in_calls:
                text = self._seek(text, found)
            else:
                text = self._read_content(text, found)
        return found

    def finish(self) -> list[Delta]:
        """What was held back, and what began like a call but has no name."""
        found: list[Delta] = []
        if self._scanner is not None and self._scanner.name is None:
            self._held += self._scanner.raw
        if self._format.named is not None:
            self._held += self._between
        self._content(self._held, found)
        return found

    # ------------------------------------------------------------ outside of calls

    def _read_content(self, text: str, found: list[Delta]) -> str:
        """Content up to an opener; returns what comes behind it."""
        self._held += text
        begun = self._held.lstrip()
        if not self._said_any and begun and begun[0] in self._format.bare:
            self._held, self._in_calls = "", True
            return begun
        opener = self._format.opener
        if opener is None:
            self._content(self._take_held(), found)
            return ""
        before, marker, behind = self._held.partition(opener)
        if marker:
            self._held, self._in_calls = "", True
            self._content(before.rstrip(), found)
            return behind
        shown = len(before) - held_back(before, (opener,))
        shown = len(before[:shown].rstrip())  # white space before a call is not part of the content
        self._held = before[shown:]
        self._content(before[:shown], found)
        return ""

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held

    def _content(self, text: str, found: list[Delta]) -> None:
        """White space around calls is nobody's."""
        is_blank = not text.strip()
        if not text or (is_blank and (self._calls or self._in_calls)):
            return
        self._said_any |= not is_blank
        found.append(Content(text))

    # ------------------------------------------------------------ calls

    def _seek(self, text: str, found: list[Delta]) -> str:
        """The next call, or the end of calls; returns what is left to read."""
        closer, named = self._format.closer, self._format.named
        begun = self._between + text.lstrip()
        if named is not None and begun[:1] not in "{" + _SEPARATORS:
            self._between += text
            return self._read_name(self._between, named, found)
        for at, char in enumerate(text):
            if char == "{":
                self._scanner, self._between = CallScanner(), ""
                return text[at:]
            if not char.isspace() and (closer or char not in _SEPARATORS):
                self._between += char
                if closer is not None and closer.startswith(self._between):
                    if self._between != closer:
                        continue
                    self._between = ""
                self._in_calls = False
                self._held, self._between = self._between, ""
                return text[at + 1 :]
        return ""

    def _read_name(self, text: str, named: str, found: list[Delta]) -> str:
        """Of a call whose name comes before its arguments; returns where these begin."""
        head, marker, behind = text.partition(named)
        arguments = behind.lstrip()
        if len(head) <= _MOST_NAME_CHARS and not arguments:
            return ""  # more has to come
        self._between = ""
        if not marker or arguments[0] != "{":
            self._in_calls = False
            self._content(text, found)
            return ""
        name, _, identity = head.partition(self._format.identified or named)
        self._scanner = CallScanner(name.strip())
        found.append(CallStart(self._calls, identity.strip() or self._new_id(), name.strip()))
        return arguments

    def _scan(self, scanner: CallScanner, text: str, found: list[Delta]) -> str:
        named = scanner.name is not None
        read = 0
        while read < len(text) and not scanner.done:
            scanner.push(text[read])
            read += 1
        if scanner.name is not None and not named:
            found.append(CallStart(self._calls, self._new_id(), scanner.name))
        if arguments := scanner.take():
            found.append(CallArguments(self._calls, arguments))
        if scanner.done:
            self._scanner = None
            if scanner.name is None:
                self._in_calls = False
                self._content(scanner.raw, found)
            else:
                self._calls += 1
                self._in_calls = not scanner.is_bare  # else an opener precedes the next one
        return text[read:]

    def _new_id(self) -> str:
        letters: Sequence[str] = [secrets.choice(_LETTERS) for _ in range(self._format.id_letters)]
        return self._format.id_prefix + "".join(letters)
