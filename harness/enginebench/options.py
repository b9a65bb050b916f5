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
from typing import Literal, TypeVar

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
    "Sought",
    "merge_options",
    "parse_options",
]

RawOptions = Mapping[str, Sequence[str]]
"""Texts by option name; every option may come several times, only `set` does so by nature."""

ALL = "all"
URL = "url"
T = TypeVar("T")
D = TypeVar("D")
FIRST_RATE_RPS = 1.0
FEWEST_REPEATS = 3
MOST_WARMUPS = 32
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


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The axes of a plan and what holds for every cell; `parse_options` knows the defaults.

    `concurrency` (closed loop) and `rates` (open loop, per second) are one axis of loads, of which
    one may be empty.
    `engines` may hold "all", for every engine that can run and need not be named. `hardware` None
    stands for the default of this machine, and `models` None for the default model of the engines.
    Each switch in `without` is turned off in cells of its own, one at a time.
    """

    engines: tuple[str, ...]
    models: tuple[str, ...] | None
    hardware: str | None
    concurrency: tuple[int | Sought, ...]
    rates: tuple[float | RateMultiple | Sought, ...]
    workload: str
    settings: tuple[Setting, ...]
    requests: int | None
    duration_s: float | None
    warmup_requests: int
    warmup_until_steady: bool
    repeats: int
    seed: int
    precision: float | None
    budget_s: float
    slo_share: float
    run_settings: RunSettings
    name: str | None
    without: tuple[str, ...] = ()


OPTION_KEYS = (
    "engines",
    "model",
    "hardware",
    "concurrency",
    "rate",
    "slo",
    "slo_share",
    "arrival",
    "workload",
    "route",
    "requests",
    "duration",
    "ramp",
    "input_tokens",
    "output_tokens",
    "warmup",
    "repeats",
    "precision",
    "budget",
    "seed",
    "reuse_servers",
    "unchecked",
    "reference",
    "price",
    "stall_timeout",
    "load_workers",
    "remote_workers",
    "load_listen",
    "set",
    "name",
    "url",
)
"""The keys of `RawOptions`: the long options of `bench run` that shape the plan."""

_BECOMES = {
    "arrival": "{workload}.arrival",
    "input_tokens": "{workload}.input_tokens",
    "output_tokens": "{workload}.output_tokens",
    "ramp": "{workload}.ramp_s",
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
    warmup = read.one("warmup", _warmup, 1)
    precision, run_settings = read.one("precision", _share, None), _run_settings(read)
    sought = run_settings.slo is not None and not raw.get("concurrency")
    rates = read.several("rate", _rate, (Sought("slo", FIRST_RATE_RPS),) if sought else ())
    concurrency = read.several("concurrency", _users, () if rates else (1, 16))
    _check_workers(run_settings)
    _check_sought((*concurrency, *rates), run_settings)
    _check_arrival(settings, workload, rates)
    return PlanOptions(
        engines=read.several("engines", _text, (URL if "url" in raw else ALL,)),
        models=read.several("model", _text, None),
        hardware=",".join(raw["hardware"]) if raw.get("hardware") else None,
        concurrency=concurrency,
        rates=rates,
        workload=workload,
        settings=settings,
        requests=requests,
        duration_s=read.one("duration", _seconds, None if requests else 10.0),
        warmup_requests=MOST_WARMUPS if warmup is None else warmup,
        warmup_until_steady=warmup is None,
        repeats=read.one("repeats", _positive, 1 if precision is None else FEWEST_REPEATS),
        precision=precision,
        budget_s=read.one("budget", _time_span, 600.0),
        slo_share=read.one("slo_share", _share, 0.9),
        seed=read.one("seed", _count, 0),
        run_settings=run_settings,
        name=read.one("name", _file_name, None),
    )


def _run_settings(read: _Reader) -> RunSettings:
    default = RunSettings()
    return RunSettings(
        reuse_servers=read.one("reuse_servers", _truth, default.reuse_servers),
        load_workers=read.one("load_workers", _positive, default.load_workers),
        remote_workers=read.one("remote_workers", _count, default.remote_workers),
        load_listen=read.one("load_listen", _host_port, None),
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


def _warmup(text: str) -> int | None:
    """None: until it is steady."""
    if text == "auto":
        return None
    try:
        return _count(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


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


_SPANS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _time_span(text: str) -> float:
    unit = text[-1:] if text[-1:] in _SPANS_S else ""
    try:
        seconds = float(text.removesuffix(unit)) * _SPANS_S.get(unit, 1.0)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError("must be a time above 0, as in 90s, 10m or 1h")
    return seconds


def _share(text: str) -> float:
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


def _users(text: str) -> int | Sought:
    sought = _sought(text)
    if sought is None:
        return _positive(text)
    if sought.goal == "saturate":
        raise ValueError("a closed loop waits for the engine and so never saturates it: --rate")
    if not sought.first.is_integer():
        raise ValueError("must say with how many users to begin, as in slo:4")
    return sought


def _host_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not _DIGITS.fullmatch(port) or int(port) > 65535:
        raise ValueError("must be HOST:PORT, as in 0.0.0.0:5557")
    return text


def _check_workers(settings: RunSettings) -> None:
    if (settings.remote_workers > 0) != (settings.load_listen is not None):
        raise UsageError(
            "workers of other machines need both --remote-workers N and --load-listen HOST:PORT, "
            "where they join by `bench worker --join HOST:PORT`"
        )


def _check_sought(loads: Sequence[object], settings: RunSettings) -> None:
    if settings.slo is None and any(isinstance(x, Sought) and x.goal == "slo" for x in loads):
        raise UsageError("a load that meets an SLO needs one: add --slo, as in --slo ttft=500ms")


def _rate(text: str) -> float | RateMultiple | Sought:
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


def _file_name(text: str) -> str:
    if not _FILE_NAME.fullmatch(text):
        raise ValueError("must be letters, digits, dots, dashes and underscores (a folder's name)")
    return text


def _check_arrival(settings: Sequence[Setting], workload: str, rates: Sequence[object]) -> None:
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
