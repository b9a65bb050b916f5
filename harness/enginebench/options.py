"""What the user asked for, before it is known which engines, models and machine there are.

The command line and `plan.toml` both end here as texts under the same keys (`RawOptions`), so that
both are read by the same rules; `parse_options` turns them into numbers and names, or says what is
wrong with which option. Unknown engines, models and devices are found by `enginebench.plan`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from enginebench.errors import UnknownNameError, UsageError
from enginebench.run_settings import RunSettings
from enginebench.settings import Setting, parse_setting, truth
from enginebench.slo import Slo

__all__ = [
    "ALL",
    "OPTION_KEYS",
    "URL",
    "PlanOptions",
    "RateMultiple",
    "RawOptions",
    "merge_options",
    "parse_options",
]

RawOptions = Mapping[str, Sequence[str]]
"""Texts by option name; every option may come several times, only `set` does so by nature."""

ALL = "all"
URL = "url"
T = TypeVar("T")
D = TypeVar("D")
_DIGITS = re.compile(r"[0-9]{1,15}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class RateMultiple:
    """`2x`: a trace twice as fast as it was recorded."""

    factor: float

    def __str__(self) -> str:
        return f"{self.factor:g}x"


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The axes of a plan and what holds for every cell; `parse_options` knows the defaults.

    `concurrency` (closed loop) and `rates` (open loop, per second) are one axis of loads, of which
    one may be empty.
    `engines` may hold "all", for every engine that can run and need not be named. `hardware` None
    stands for the default of this machine, and `models` None for the default model of the engines.
    """

    engines: tuple[str, ...]
    models: tuple[str, ...] | None
    hardware: str | None
    concurrency: tuple[int, ...]
    rates: tuple[float | RateMultiple, ...]
    workload: str
    settings: tuple[Setting, ...]
    requests: int | None
    duration_s: float | None
    warmup_requests: int
    repeats: int
    seed: int
    run_settings: RunSettings
    name: str | None


OPTION_KEYS = (
    "engines",
    "model",
    "hardware",
    "concurrency",
    "rate",
    "slo",
    "arrival",
    "workload",
    "route",
    "requests",
    "duration",
    "input_tokens",
    "output_tokens",
    "warmup",
    "repeats",
    "seed",
    "reuse_servers",
    "unchecked",
    "reference",
    "price",
    "stall_timeout",
    "set",
    "name",
    "url",
)
"""The keys of `RawOptions`: the long options of `bench run` that shape the plan."""

_BECOMES = {
    "arrival": "{workload}.arrival",
    "input_tokens": "{workload}.input_tokens",
    "output_tokens": "{workload}.output_tokens",
    "route": "{workload}.route",
    "url": "url.url",
}
"""Options that are a short way to write a `set`."""


def merge_options(*layers: RawOptions) -> dict[str, Sequence[str]]:
    """Later layers win, option by option; a `set` wins over an earlier one of the same key."""
    merged: dict[str, Sequence[str]] = {}
    settings: dict[str, str] = {}
    for layer in layers:
        merged.update({key: texts for key, texts in layer.items() if key != "set"})
        settings.update({text.partition("=")[0].strip(): text for text in layer.get("set", ())})
    return {**merged, "set": tuple(settings.values())} if settings else merged


def parse_options(raw: RawOptions) -> PlanOptions:
    """Typed options; raises UsageError, naming the option, for whatever cannot be read.

    Who gives a `url` and no engines wants that server measured and nothing else.
    """
    for key in raw:
        if key not in OPTION_KEYS:
            raise UnknownNameError("option", key, OPTION_KEYS)
    read = _Reader(raw)
    workload = read.one("workload", _text, "fixed")
    settings = _settings(raw, workload)
    requests = read.one("requests", _positive, None)
    rates = read.several("rate", _rate, ())
    _check_arrival(settings, workload, rates)
    return PlanOptions(
        engines=read.several("engines", _text, (URL if "url" in raw else ALL,)),
        models=read.several("model", _text, None),
        hardware=",".join(raw["hardware"]) if raw.get("hardware") else None,
        concurrency=read.several("concurrency", _positive, () if rates else (1, 16)),
        rates=rates,
        workload=workload,
        settings=settings,
        requests=requests,
        duration_s=read.one("duration", _seconds, None if requests else 10.0),
        warmup_requests=read.one("warmup", _count, 1),
        repeats=read.one("repeats", _positive, 1),
        seed=read.one("seed", _count, 0),
        run_settings=_run_settings(read),
        name=read.one("name", _file_name, None),
    )


def _run_settings(read: _Reader) -> RunSettings:
    default = RunSettings()
    return RunSettings(
        reuse_servers=read.one("reuse_servers", _truth, default.reuse_servers),
        stall_timeout_s=read.one("stall_timeout", _seconds, default.stall_timeout_s),
        slo=read.whole("slo", Slo.parse),
        check_answers=not read.one("unchecked", _truth, False),
        reference=read.one("reference", _text, None),
        price_per_hour=read.one("price", _price, None),
    )


class _Reader:
    """Looks texts up by option name, so that every error can name the option."""

    def __init__(self, raw: RawOptions) -> None:
        self._raw = raw

    def one(self, key: str, convert: Callable[[str], T], default: D) -> T | D:
        texts = self._raw.get(key)
        if not texts:
            return default
        if len(texts) > 1:
            raise UsageError(f"{_flag(key)} takes one value, not {len(texts)}: {', '.join(texts)}")
        return _converted(key, texts[0].strip(), convert)

    def whole(self, key: str, convert: Callable[[str], T]) -> T | None:
        """An option whose value may hold commas; None where it is not given."""
        texts = self._raw.get(key)
        return convert(",".join(texts)) if texts else None

    def several(
        self, key: str, convert: Callable[[str], T], default: tuple[T, ...] | D
    ) -> tuple[T, ...] | D:
        texts = self._raw.get(key)
        if not texts:
            return default
        parts = [part.strip() for text in texts for part in text.split(",")]
        values = tuple(_converted(key, part, convert) for part in parts)
        for value in values:
            if values.count(value) > 1:
                raise UsageError(f"{_flag(key)} {','.join(texts)!r} names {value} twice")
        return values


def _converted(key: str, text: str, convert: Callable[[str], T]) -> T:
    try:
        return convert(text)
    except ValueError as error:
        raise UsageError(f"{_flag(key)} {text!r}: {error}") from None


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _text(text: str) -> str:
    if not text:
        raise ValueError("a name is missing")
    return text


def _positive(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) == 0:
        raise ValueError("must be a whole number from 1 up")
    return int(text)


def _count(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError("must be a whole number from 0 up")
    return int(text)


def _truth(text: str) -> bool:
    value = truth(text)
    if value is None:
        raise ValueError("must be true or false")
    return value


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError("must be a number of seconds above 0, as in 10 or 2.5")
    return seconds


def _price(text: str) -> float:
    try:
        price = float(text.removesuffix("/h"))
    except ValueError:
        price = 0.0
    if not 0 < price < math.inf:
        raise ValueError("must be what the machine costs an hour, as in 2.5 or 2.5/h")
    return price


def _rate(text: str) -> float | RateMultiple:
    try:
        rate = float(text.removesuffix("x"))
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise ValueError(
            "must be a number of requests per second above 0, as in 4 or 0.5, or of a trace a "
            "multiple of its own rate, as in 1x or 2x"
        )
    return RateMultiple(rate) if text.endswith("x") else rate


def _file_name(text: str) -> str:
    if not _FILE_NAME.fullmatch(text):
        raise ValueError("must be letters, digits, dots, dashes and underscores (a folder's name)")
    return text


def _check_arrival(
    settings: Sequence[Setting], workload: str, rates: Sequence[float | RateMultiple]
) -> None:
    for setting in settings:
        if setting.key == f"{workload}.arrival" and not rates:
            raise UsageError(
                f"an arrival ({','.join(setting.values)}) says how requests of an open loop come; "
                "say how often with --rate, as in --rate 2,4,8, or leave it out"
            )


def _settings(raw: RawOptions, workload: str) -> tuple[Setting, ...]:
    texts = list(raw.get("set", ()))
    for key, target in _BECOMES.items():
        texts += [f"{target.format(workload=workload)}={text}" for text in raw.get(key, ())]
    settings = tuple(parse_setting(text) for text in texts)
    seen: dict[str, Setting] = {}
    for setting in settings:
        if setting.key in seen:
            raise UsageError(
                f"{setting.key} is set twice, to {','.join(seen[setting.key].values)} and "
                f"{','.join(setting.values)}; write --set {setting.key}=V1,V2 to try both"
            )
        seen[setting.key] = setting
    return settings
