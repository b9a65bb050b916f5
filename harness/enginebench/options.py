"""What the user asked for, before it is known which engines, models and machine there are.

The command line and `plan.toml` both end here as texts under the same keys (`RawOptions`), so that
both are read by the same rules; `parse_options` turns them into numbers and names, or says what is
wrong with which option. Unknown engines, models and devices are found by `enginebench.plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from enginebench import option_values as values
from enginebench.errors import UnknownNameError, UsageError
from enginebench.option_values import FIRST_RATE_RPS, RateMultiple, Sought
from enginebench.run_settings import RunSettings
from enginebench.settings import Setting, parse_setting
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
FEWEST_REPEATS = 3
MOST_WARMUPS = 32


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
    "switch_to",
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
    workload = read.one("workload", values.name, "fixed")
    settings = _settings(raw, workload)
    requests = read.one("requests", values.positive, None)
    warmup = read.one("warmup", values.warmup, 1)
    precision, run_settings = read.one("precision", values.share, None), _run_settings(read)
    sought = run_settings.slo is not None and not raw.get("concurrency")
    rates = read.several("rate", values.rate, (Sought("slo", FIRST_RATE_RPS),) if sought else ())
    concurrency = read.several("concurrency", values.users, () if rates else (1, 16))
    _check_workers(run_settings)
    _check_sought((*concurrency, *rates), run_settings)
    _check_arrival(settings, workload, rates)
    return PlanOptions(
        engines=read.several("engines", values.name, (URL if "url" in raw else ALL,)),
        models=read.several("model", values.name, None),
        hardware=",".join(raw["hardware"]) if raw.get("hardware") else None,
        concurrency=concurrency,
        rates=rates,
        workload=workload,
        settings=settings,
        requests=requests,
        duration_s=read.one("duration", values.seconds, None if requests else 10.0),
        warmup_requests=MOST_WARMUPS if warmup is None else warmup,
        warmup_until_steady=warmup is None,
        repeats=read.one("repeats", values.positive, 1 if precision is None else FEWEST_REPEATS),
        precision=precision,
        budget_s=read.one("budget", values.time_span, 600.0),
        slo_share=read.one("slo_share", values.share, 0.9),
        seed=read.one("seed", values.count, 0),
        run_settings=run_settings,
        name=read.one("name", values.file_name, None),
    )


def _run_settings(read: _Reader) -> RunSettings:
    default = RunSettings()
    return RunSettings(
        reuse_servers=read.one("reuse_servers", values.switch, default.reuse_servers),
        load_workers=read.one("load_workers", values.positive, default.load_workers),
        remote_workers=read.one("remote_workers", values.count, default.remote_workers),
        load_listen=read.one("load_listen", values.host_port, None),
        stall_timeout_s=read.one("stall_timeout", values.seconds, default.stall_timeout_s),
        slo=read.whole("slo", Slo.parse),
        check_answers=not read.one("unchecked", values.switch, False),
        reference=read.one("reference", values.name, None),
        price_per_hour=read.one("price", values.price, None),
        switch_to=read.one("switch_to", values.name, None),
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
        found = tuple(_converted(key, part, convert) for part in parts)
        for value in found:
            if found.count(value) > 1:
                raise UsageError(f"{_flag(key)} {','.join(texts)!r} names {value} twice")
        return found


def _converted(key: str, text: str, convert: Callable[[str], T]) -> T:
    try:
        return convert(text)
    except ValueError as error:
        raise UsageError(f"{_flag(key)} {text!r}: {error}") from None


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _check_workers(settings: RunSettings) -> None:
    if (settings.remote_workers > 0) != (settings.load_listen is not None):
        raise UsageError(
            "workers of other machines need both --remote-workers N and --load-listen HOST:PORT, "
            "where they join by `bench worker --join HOST:PORT`"
        )


def _check_sought(loads: Sequence[object], settings: RunSettings) -> None:
    if settings.slo is None and any(isinstance(x, Sought) and x.goal == "slo" for x in loads):
        raise UsageError("a load that meets an SLO needs one: add --slo, as in --slo ttft=500ms")


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
