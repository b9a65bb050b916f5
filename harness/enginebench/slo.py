"""A service level objective: bounds that a request must keep to be a good one.

    slo = Slo.parse("ttft=500ms,tpot=50ms")
    slo.met_by(record)                       # goodput counts the requests for which this is true

TTFT and the whole request (`e2e`) count from the scheduled send, TPOT from the first chunk on, as
the metrics of those names do. Knows no percentile: an objective is met request by request.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from enginebench.errors import UnknownNameError, UsageError
from enginebench.types import RequestRecord

__all__ = ["Slo"]

IN_A_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}
NS = 1e9  # divided by, not multiplied with 1e-9, so that 150 ms are 0.15 s
EXAMPLE = "for example ttft=500ms,tpot=50ms"


@dataclass(frozen=True, slots=True)
class Slo:
    """At least one bound; None: not bounded. A bound that is just reached is kept."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        if not self.bounds_s:
            raise ValueError("an SLO has at least one bound")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `ttft=500ms,tpot=50ms,e2e=10s`; UsageError names what is wrong with it."""
        bounds_s: dict[str, float] = {}
        for part in text.split(","):
            name, equals, length = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise UsageError(f"SLO {text!r}: {part.strip()!r} is no bound; {EXAMPLE}")
            if name not in NAMES:
                raise UnknownNameError("latency in an SLO", name, NAMES, fix=EXAMPLE.capitalize())
            if name in bounds_s:
                raise UsageError(f"SLO {text!r}: {name} is bounded twice; leave one of them out")
            bounds_s[name] = _seconds(length, text)
        return cls(**{f"{name}_s": bound for name, bound in bounds_s.items()})

    @property
    def bounds_s(self) -> Mapping[str, float]:
        """Seconds by latency (`ttft`, `tpot`, `e2e`), of those that are bounded."""
        values = {name: getattr(self, f"{name}_s") for name in NAMES}
        return {name: value for name, value in values.items() if value is not None}

    def met_by(self, record: RequestRecord) -> bool:
        """Whether this request was answered within every bound.

        One that failed never was; one without text has no TTFT and so breaks a bound on it; one
        whose text came at once has no TPOT and keeps any.
        """
        if record.error is not None:
            return False
        found = _latencies_s(record)
        return all(found[name] <= bound for name, bound in self.bounds_s.items())

    def __str__(self) -> str:
        """As it is typed: `ttft=500ms,tpot=50ms`."""
        return ",".join(f"{name}={_length(bound)}" for name, bound in self.bounds_s.items())


NAMES = tuple(field.name.removesuffix("_s") for field in fields(Slo))


def _latencies_s(record: RequestRecord) -> Mapping[str, float]:
    e2e_s = (record.end_ns - record.scheduled_ns) / NS
    if not record.chunk_ns:
        return {"ttft": math.inf, "tpot": 0.0, "e2e": e2e_s}
    first_ns, counted = record.chunk_ns[0], record.completion_tokens
    later = (sum(record.chunk_tokens) if counted is None else counted) - record.chunk_tokens[0]
    tpot_s = (record.end_ns - first_ns) / NS / later if later > 0 else 0.0
    return {"ttft": (first_ns - record.scheduled_ns) / NS, "tpot": tpot_s, "e2e": e2e_s}


def _seconds(length: str, text: str) -> float:
    match = re.fullmatch(r"([0-9.]+)\s*(ms|us|s)", length)
    try:
        value = float(match[1]) / IN_A_SECOND[match[2]] if match else 0.0
    except ValueError:  # two points
        value = 0.0
    if value <= 0:
        raise UsageError(
            f"SLO {text!r}: {length!r} is no length of time; give a number above 0 and its unit "
            f"({', '.join(IN_A_SECOND)}), {EXAMPLE}"
        )
    return value


def _length(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1e3:g}ms"
