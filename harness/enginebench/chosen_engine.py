"""One engine, one model, one hardware entry, one set of options: what `serve` and `chat` start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginebench import plugins
from enginebench.errors import UnknownNameError, UsageError
from enginebench.hardware import default_hardware, parse_hardware, this_capacity
from enginebench.left_out import why_not
from enginebench.plan import DEFAULT_MODEL
from enginebench.settings import Setting, combinations, parse_setting
from enginebench.types import Engine, EngineSpec, Hardware, ModelInfo

__all__ = ["ChosenEngine", "choose_engine"]


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine that can run `spec` here."""

    engine: Engine
    spec: EngineSpec
    model: ModelInfo


def choose_engine(
    name: str,
    model: str | None,
    hardware: str | None,
    settings: Sequence[str],
    manager: plugins.PluginManager | None = None,
) -> ChosenEngine:
    """Look everything up; raises UsageError for what does not exist, cannot run, or is a sweep.

    In `settings`, `OPTION=VALUE` is as good as `ENGINE.OPTION=VALUE`.
    """
    known = plugins.engines(manager)
    if name not in known:
        raise UnknownNameError("engine", name, known, fix="`bench engines` lists them")
    engine = known[name]
    parsed = [_setting(name, text) for text in settings]
    options = combinations(name, engine.options, parsed)
    if len(options) > 1:
        raise UsageError(f"--set {' --set '.join(settings)}: give one value; `bench run` sweeps")
    if (out := why_not(engine, parsed)) is not None:
        raise UsageError(str(out))
    place = _hardware(hardware)
    info = plugins.resolve_model(model or DEFAULT_MODEL, manager)
    if (reason := engine.refuses(info, place)) is not None:
        raise UsageError(f"{name} cannot run {info.name} with {place}: {reason}")
    return ChosenEngine(engine, EngineSpec(name, info.name, place, options[0]), info)


def _setting(engine: str, text: str) -> Setting:
    key = text.partition("=")[0]
    setting = parse_setting(text if "." in key else f"{engine}.{text}")
    if setting.target != engine:
        raise UsageError(f"--set {text!r} is not for {engine}, the only engine here")
    return setting


def _hardware(text: str | None) -> Hardware:
    capacity = this_capacity()
    if text is None:
        return default_hardware(capacity)
    entries = parse_hardware(text, capacity)
    if len(entries) > 1:
        raise UsageError(f"--hardware {text!r}: give one entry; `bench run` sweeps")
    return entries[0]
