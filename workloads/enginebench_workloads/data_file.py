"""A file of the user's, read as lines or as a list, whose errors name file and line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from enginebench.errors import UsageError

__all__ = ["DataFile", "bad_row"]


@dataclass(frozen=True, slots=True)
class DataFile:
    """The whole file as text without a byte order mark."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> DataFile:
        """Raises UsageError for a file that is not there, not UTF-8, or empty."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UsageError(f"cannot read the file {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text (byte {error.start})") from None
        if not text.strip():
            raise UsageError(f"{path} is empty")
        return cls(path, text)

    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines that are not blank, with their numbers from 1."""
        for number, line in enumerate(self.text.split("\n"), 1):
            if line.strip():
                yield number, line.rstrip("\r")

    def elements(self) -> Iterator[tuple[int, msgspec.Raw]]:
        """The elements of a JSON list, with the numbers of the lines on which they begin."""
        data = self.text.encode()
        try:
            elements = msgspec.json.decode(data, type=list[msgspec.Raw])
        except msgspec.DecodeError as error:
            raise UsageError(f"{self.path}: not a JSON list: {error}") from None
        at, line = 0, 1
        for element in elements:
            raw = bytes(element)
            found = data.index(raw, at)
            line += data.count(b"\n", at, found)
            yield line, element
            line += raw.count(b"\n")
            at = found + len(raw)


def bad_row(path: Path, line: int, what: str) -> UsageError:
    """The error for a row that cannot be used."""
    return UsageError(f"{path}:{line}: {what}")
