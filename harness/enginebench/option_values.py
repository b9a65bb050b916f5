"""One text of the command line or of `plan.toml` as a value: a number, a length of time, a load.

Each function takes the text of one value and raises ValueError, saying what it must be, for any
other; which option it belongs to is known to `enginebench.options`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from enginebench.settings import truth

__all__ = [
    "FIRST_RATE_RPS",
    "RateMultiple",
    "Sought",
    "count",
    "file_name",
    "host_port",
    "name",
    "positive",
    "price",
    "rate",
    "seconds",
    "share",
    "switch",
    "time_span",
    "users",
    "warmup",
]

FIRST_RATE_RPS = 1.0
_SPANS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DIGITS = re.compile(r"[0-9]{1,15}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class RateMultiple:
    """`2x`: a trace twice as fast as it was recorded."""

    factor: float

    def __str__(self) -> str:
        return f"{self.factor:g}x"


@dataclass(frozen=True, slots=True)
class Sought:
    """`saturate:8`: a load that a search finds, and the first that it tries."""

    goal: Literal["saturate", "slo"]
    first: float

    def __str__(self) -> str:
        return f"{self.goal}:{self.first:g}"


def name(text: str) -> str:
    if not text:
        raise ValueError("a name is missing")
    return text


def positive(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) == 0:
        raise ValueError("must be a whole number from 1 up")
    return int(text)


def count(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError("must be a whole number from 0 up")
    return int(text)


def warmup(text: str) -> int | None:
    """None: until it is steady."""
    if text == "auto":
        return None
    try:
        return count(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def switch(text: str) -> bool:
    value = truth(text)
    if value is None:
        raise ValueError("must be true or false")
    return value


def seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError("must be a number of seconds above 0, as in 10 or 2.5")
    return seconds


def price(text: str) -> float:
    try:
        price = float(text.removesuffix("/h"))
    except ValueError:
        price = 0.0
    if not 0 < price < math.inf:
        raise ValueError("must be what the machine costs an hour, as in 2.5 or 2.5/h")
    return price


def time_span(text: str) -> float:
    unit = text[-1:] if text[-1:] in _SPANS_S else ""
    try:
        seconds = float(text.removesuffix(unit)) * _SPANS_S.get(unit, 1.0)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError("must be a time above 0, as in 90s, 10m or 1h")
    return seconds


def share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1 or not text.endswith("%"):
        raise ValueError("must be a percentage between 0% and 100%, as in 2%")
    return share


def _sought(text: str) -> Sought | None:
    """None: a load that is given, not sought."""
    goal, colon, first = text.partition(":")
    if goal not in ("saturate", "slo"):
        return None
    try:
        load = float(first) if colon else FIRST_RATE_RPS
    except ValueError:
        load = 0.0
    if not 0 < load < math.inf:
        raise ValueError(f"must say with which load to begin, as in {goal}:4")
    return Sought("saturate" if goal == "saturate" else "slo", load)


def users(text: str) -> int | Sought:
    sought = _sought(text)
    if sought is None:
        return positive(text)
    if sought.goal == "saturate":
        raise ValueError("a closed loop waits for the engine and so never saturates it: --rate")
    if not sought.first.is_integer():
        raise ValueError("must say with how many users to begin, as in slo:4")
    return sought


def host_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not _DIGITS.fullmatch(port) or int(port) > 65535:
        raise ValueError("must be HOST:PORT, as in 0.0.0.0:5557")
    return text


def rate(text: str) -> float | RateMultiple | Sought:
    if (sought := _sought(text)) is not None:
        return sought
    try:
        rate = float(text.removesuffix("x"))
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise ValueError(
            "must be a number of requests per second above 0, as in 4 or 0.5, or of a trace a "
            "multiple of its own rate, as in 1x or 2x; or saturate, or slo, to search for it"
        )
    return RateMultiple(rate) if text.endswith("x") else rate


def file_name(text: str) -> str:
    if not _FILE_NAME.fullmatch(text):
        raise ValueError("must be letters, digits, dots, dashes and underscores (a folder's name)")
    return text
