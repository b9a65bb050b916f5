"""Engines that a plan leaves out, and why: found out before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginebench.errors import UsageError
from enginebench.options import ALL, PlanOptions
from enginebench.settings import Setting
from enginebench.types import Engine, Hardware, ModelInfo

__all__ = ["LeftOut", "raise_if_named", "refused", "unavailable", "unnamed", "where", "why_not"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An engine that cannot run: at all, or (with `where`) on one model and hardware.

    Without a `reason` it could, and waits to be named.
    """

    engine: str
    reason: str = ""
    fix: str = ""
    where: str = ""

    def __str__(self) -> str:
        if not self.reason:
            return f"{self.engine} takes part by name only; to add it: --engines all,{self.engine}"
        where = f" on {self.where}" if self.where else ""
        return f"{self.engine} cannot run{where}: {self.reason}" + (
            f". Fix: {self.fix}" if self.fix else ""
        )


def why_not(engine: Engine, settings: Sequence[Setting] = ()) -> LeftOut | None:
    """Why `engine` cannot run on this machine with these settings, whatever the model."""
    state = engine.availability()
    if not state.ok:
        return LeftOut(engine.name, state.reason, state.fix)
    given = {setting.option for setting in settings if setting.target == engine.name}
    for option in engine.options:
        if option.required and option.name not in given:
            fix = f"add --set {engine.name}.{option.name}=VALUE ({option.help})"
            return LeftOut(engine.name, f"it needs the option {option.name!r}", fix)
    return None


def unavailable(chosen: Mapping[str, Engine], settings: Sequence[Setting]) -> list[LeftOut]:
    """Those that cannot run on this machine."""
    return [out for engine in chosen.values() if (out := why_not(engine, settings)) is not None]


def unnamed(
    known: Mapping[str, Engine], chosen: Mapping[str, Engine], options: PlanOptions
) -> list[LeftOut]:
    """What `all` leaves out though it could run."""
    if ALL not in options.engines:
        return []
    return [
        LeftOut(name)
        for name, engine in known.items()
        if name not in chosen and engine.availability().ok
    ]


def refused(
    engines: Mapping[str, Engine], models: Mapping[str, ModelInfo], hardware: Sequence[Hardware]
) -> list[LeftOut]:
    """What engines say of each model on each hardware."""
    return [
        LeftOut(name, reason, where=where(model, each))
        for name, engine in engines.items()
        for model in models
        for each in hardware
        if (reason := engine.refuses(models[model], each)) is not None
    ]


def where(model: str, hardware: Hardware) -> str:
    """Of a LeftOut."""
    return f"{model} with {hardware}"


def raise_if_named(options: PlanOptions, left_out: Sequence[LeftOut]) -> None:
    """UsageError for what was asked for by name."""
    if named := [out for out in left_out if out.engine in options.engines]:
        raise UsageError("\n".join(str(out) for out in named))
