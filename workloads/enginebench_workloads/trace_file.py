"""Recorded traffic: when requests came and how long they were. What a row of each format means.

- `azure` (Azure LLM inference trace): CSV `TIMESTAMP,ContextTokens,GeneratedTokens`, dates.
- `burstgpt`: CSV `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`, seconds.
  Rows without response tokens are requests that had failed; they are left out.
- `mooncake`: a JSON object a line with `timestamp` (ms), `input_length`, `output_length` and
  `hash_ids`, one for each 512 tokens of the prompt; equal ids are equal tokens.

Rows are sorted by time. Which request belongs to which user, none of them tells.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from enginebench.errors import UsageError
from enginebench_workloads.data_file import DataFile, bad_row

__all__ = ["BLOCK_TOKENS", "TraceFormat", "TraceRow", "read_trace"]

TraceFormat = Literal["azure", "burstgpt", "mooncake"]
BLOCK_TOKENS = 512
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request. `at_s` counts from anywhere; `blocks`: ids of 512 tokens of the prompt each."""

    line: int
    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] | None = None


class _Mooncake(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


def read_trace(path: Path, format: TraceFormat | None) -> Sequence[TraceRow]:
    """All rows by time; `format` None: as the first line says.

    Raises UsageError, naming file and line, for the first row that cannot be used.
    """
    changed_ns = path.stat().st_mtime_ns if path.exists() else 0
    return _read(path, format, changed_ns)


@lru_cache(maxsize=2)
def _read(path: Path, format: TraceFormat | None, changed_ns: int) -> Sequence[TraceRow]:
    file = DataFile.read(path)
    readers: Mapping[str, Callable[[DataFile], Iterator[TraceRow]]] = {
        "azure": _azure,
        "burstgpt": _burstgpt,
        "mooncake": _mooncake,
    }
    rows = sorted(readers[format or _looks_like(file)](file), key=lambda row: row.at_s)
    if not rows:
        raise UsageError(f"{path} has no request")
    return tuple(rows)


def _looks_like(file: DataFile) -> TraceFormat:
    number, first = next(file.lines())
    if first.lstrip().startswith("{"):
        return "mooncake"
    names = {name.strip() for name in first.split(",")}
    if names.issuperset(AZURE):
        return "azure"
    if names.issuperset(BURSTGPT):
        return "burstgpt"
    raise bad_row(
        file.path,
        number,
        f"neither a JSON object (mooncake) nor the header {','.join(AZURE)} (azure) or "
        f"{','.join(BURSTGPT)} among others (burstgpt)",
    )


def _azure(file: DataFile) -> Iterator[TraceRow]:
    for line, (at, inputs, outputs) in _table(file, AZURE):
        at_s = _date_s(file.path, line, at)
        yield TraceRow(
            line, at_s, _tokens(file.path, line, inputs), _tokens(file.path, line, outputs)
        )


def _burstgpt(file: DataFile) -> Iterator[TraceRow]:
    for line, (at, inputs, outputs) in _table(file, BURSTGPT):
        answered = _count(file.path, line, outputs)
        if answered:
            at_s = _seconds(file.path, line, at)
            yield TraceRow(line, at_s, _tokens(file.path, line, inputs), answered)


def _mooncake(file: DataFile) -> Iterator[TraceRow]:
    decode = msgspec.json.Decoder(_Mooncake).decode
    for number, text in file.lines():
        try:
            row = decode(text)
        except msgspec.DecodeError as error:
            raise bad_row(file.path, number, f"not a request: {error}") from None
        inputs, outputs = (
            _tokens(file.path, number, str(n)) for n in (row.input_length, row.output_length)
        )
        if len(row.hash_ids) != math.ceil(inputs / BLOCK_TOKENS):
            raise bad_row(
                file.path,
                number,
                f"{len(row.hash_ids)} hash_ids for {inputs} tokens: must be one for each "
                f"{BLOCK_TOKENS}",
            )
        if min(row.hash_ids) < 0:
            raise bad_row(file.path, number, f"hash id {min(row.hash_ids)}: must be 0 or more")
        yield TraceRow(number, row.timestamp / 1e3, inputs, outputs, row.hash_ids)


def _table(file: DataFile, names: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """The columns `names` of each row, with the number of its line."""
    lines = file.lines()
    number, first = next(lines)
    header = [name.strip() for name in first.split(",")]
    missing = [name for name in names if name not in header]
    if missing:
        raise bad_row(file.path, number, f"the header lacks {', '.join(missing)}")
    places = [header.index(name) for name in names]
    for number, text in lines:
        fields = next(csv.reader([text]))
        if len(fields) != len(header):
            raise bad_row(file.path, number, f"{len(fields)} fields, the header has {len(header)}")
        yield number, [fields[place].strip() for place in places]


def _date_s(path: Path, line: int, text: str) -> float:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise bad_row(path, line, f"{text!r} is no date and time") from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _seconds(path: Path, line: int, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise bad_row(path, line, f"{text!r} is no number of seconds")
    return seconds


def _count(path: Path, line: int, text: str) -> int:
    try:
        count = float(text)
    except ValueError:
        count = -1.0
    if not (count >= 0 and count.is_integer()):
        raise bad_row(path, line, f"{text!r} is no number of tokens")
    return int(count)


def _tokens(path: Path, line: int, text: str) -> int:
    count = _count(path, line, text)
    if count == 0:
        raise bad_row(path, line, "a request has at least 1 token of prompt and of answer")
    return count
