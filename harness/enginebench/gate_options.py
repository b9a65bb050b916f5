"""The texts of `bench check`'s options as rules: percentages, durations, limits by metric."""

from __future__ import annotations

import re
from collections.abc import Sequence

from enginebench.errors import UsageError
from enginebench.gate import GateRules

__all__ = ["read_duration", "read_percent", "read_rules"]

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_PERCENT = re.compile(rf"({_NUMBER})\s*%")
_DURATION = re.compile(rf"({_NUMBER})\s*(s|m|h)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def read_rules(
    fail_over: Sequence[str],
    metrics: str | None,
    false_alarms: str | None,
    missed: str | None,
    *,
    allow_machine_mismatch: bool = False,
) -> GateRules:
    """Rules from what was typed, None and () meaning the default; raises UsageError."""
    plain = GateRules()
    limits = [_limit(text) for text in fail_over]
    names = [name for name, _ in limits]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--fail-over is given twice{f' for {name}' if name else ''}")
    of = {name: value for name, value in limits if name is not None}
    return GateRules(
        fail_over=next((value for name, value in limits if name is None), plain.fail_over),
        fail_over_of=of,
        metrics=None if metrics is None else _names(metrics),
        false_alarms=_error_rate("--false-alarms", false_alarms, plain.false_alarms),
        missed=_error_rate("--missed", missed, plain.missed),
        allow_machine_mismatch=allow_machine_mismatch,
    )


def read_percent(option: str, text: str) -> float:
    """`3%` as 0.03."""
    match = _PERCENT.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{option} {text!r}: must be a percentage above 0, as in 3%")
    return float(match[1]) / 100


def read_duration(option: str, text: str) -> float:
    """`90s`, `10m`, `1.5h` or `90` in seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{option} {text!r}: must be a time above 0, as in 90s, 10m or 1h")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _limit(text: str) -> tuple[str | None, float]:
    name, equals, percent = text.rpartition("=")
    if not equals:
        return None, read_percent("--fail-over", text)
    return name.strip(), read_percent(f"--fail-over {name.strip()}", percent)


def _names(text: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UsageError(f"--metrics {text!r}: a name is empty")
    return tuple(dict.fromkeys(names))


def _error_rate(option: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    rate = read_percent(option, text)
    if rate > 0.2:
        raise UsageError(f"{option} {text!r}: must be 20% at most, or the verdict means little")
    return rate
