"""From options to a Plan: which cells there are, in which order, and which engines stay out.

The order is repeat, model, hardware, workload, load, engine: engines that are compared run next to
each other, and turn about from one repeat to the next (ABBA), so that a machine that gets slower
with time does so for all of them. Servers are reused over loads only, so with `reuse_servers` the
engine comes before the load. Nothing is started or written here; what cannot run is found now
or, at the latest, when the engine's process says so.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from enginebench import plugins
from enginebench.errors import UnknownNameError, UsageError
from enginebench.hardware import Capacity, default_hardware, parse_hardware, this_capacity
from enginebench.new_cell import new_cell, safe_name
from enginebench.options import ALL, URL, PlanOptions, RateMultiple, Sought
from enginebench.run_settings import RunSettings
from enginebench.settings import Setting, combinations
from enginebench.types import (
    Budget,
    Cell,
    Engine,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    NullEngine,
    OptionValue,
    Plan,
    RecordedWorkload,
    Search,
    Workload,
    WorkloadSpec,
)

__all__ = ["DEFAULT_MODEL", "LeftOut", "Planned", "build_plan", "why_not"]

A = TypeVar("A")
B = TypeVar("B")

DEFAULT_MODEL = "smollm2-135m"
REMOTE_MODEL = "remote"
KEPT_UP_SHARE = 0.95
"""An engine that completes requests at this share of the rate at which they come keeps up."""


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


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, what `all` could not include in it, and how it is to be executed."""

    plan: Plan
    left_out: tuple[LeftOut, ...]
    settings: RunSettings = field(default_factory=RunSettings)


@dataclass(frozen=True, slots=True)
class _Axes:
    """Every axis with all of its values: `drives` are workloads under each load, `variants` option
    sets by engine name, `sought` workloads under loads that are to be found.
    """

    models: Mapping[str, ModelInfo]
    hardware: Sequence[Hardware]
    drives: Sequence[tuple[WorkloadSpec, Load]]
    engines: Mapping[str, Engine]
    variants: Mapping[str, Sequence[Mapping[str, OptionValue]]]
    sought: Sequence[tuple[WorkloadSpec, Sought]] = ()


def build_plan(
    options: PlanOptions,
    manager: plugins.PluginManager | None = None,
    capacity: Capacity | None = None,
) -> Planned:
    """Every cell in order; raises UsageError for whatever does not exist or cannot run.

    An engine that was named and cannot run some cell is an error; among `all`, it is left out, and
    so are those that take part by name only.
    """
    known_engines = plugins.engines(manager)
    known_workloads = plugins.workloads(manager)
    broken = (manager or plugins.plugin_manager()).broken
    _check_names("engine", [n for n in options.engines if n != ALL], known_engines, broken)
    _check_names("workload", [options.workload], known_workloads, broken)
    capacity = capacity or this_capacity()
    workload = known_workloads[options.workload]
    chosen = _chosen(options.engines, known_engines)
    _check_targets(options, known_engines, chosen)
    variants = {name: _variants(engine, options) for name, engine in chosen.items()}
    hardware = _hardware(options, capacity)
    drives = [
        (spec, load)
        for spec in _workload_specs(workload, options.settings)
        for load in _loads(options, workload, spec)
    ]
    sought = [
        (spec, each)
        for spec in _workload_specs(workload, options.settings)
        for each in (*options.concurrency, *options.rates)
        if isinstance(each, Sought)
    ]
    left_out = _unavailable(chosen, options.settings) + _unnamed(known_engines, chosen, options)
    _raise_if_named(options, left_out)
    ready = {n: e for n, e in chosen.items() if n not in {out.engine for out in left_out}}
    models = {name: plugins.resolve_model(name, manager) for name in _model_names(options)}
    axes = _Axes(models, hardware, drives, ready, variants, sought)
    left_out += _refused(axes)
    _raise_if_named(options, left_out)
    refused = {(out.engine, out.where) for out in left_out}
    cells = tuple(_cells(options, axes, refused))
    searches = tuple(_searches(options, axes, refused))
    if not cells and not searches:
        raise UsageError("no engine can run:\n" + "\n".join(f"  {out}" for out in left_out))
    firsts = [search.first for search in searches if search.first is not None]
    _try_workload(workload, [*cells, *firsts], models)
    name = options.name or "-".join(safe_name(model) for model in models)[:60]
    null = tuple(sorted(n for n, engine in ready.items() if isinstance(engine, NullEngine)))
    plan = Plan(name, options.seed, cells, models, null, searches)
    _check_reference(options.run_settings, cells)
    return Planned(plan, tuple(left_out), options.run_settings)


def _check_reference(settings: RunSettings, cells: Sequence[Cell]) -> None:
    """The engine whose answers are held to be right must be one that answers."""
    if settings.reference is None:
        return
    if not settings.check_answers:
        raise UsageError("--reference names whose answers are right, --unchecked asks nobody")
    taking_part = {cell.spec.engine for cell in cells}
    if settings.reference not in taking_part:
        raise UnknownNameError(
            "reference", settings.reference, taking_part, fix="It must be one of --engines"
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


def _check_names(
    kind: str,
    names: Sequence[str],
    known: Mapping[str, object],
    broken: Sequence[plugins.BrokenPlugin],
) -> None:
    for name in names:
        if name not in known:
            faults = "".join(f"\nbroken plugin {b.origin.plugin!r}: {b.error}" for b in broken)
            raise UnknownNameError(kind, name, known, fix=f"`bench {kind}s` lists them{faults}")


def _chosen(names: Sequence[str], known: Mapping[str, Engine]) -> dict[str, Engine]:
    if ALL not in names:
        return {name: known[name] for name in names}
    return {
        name: engine
        for name, engine in known.items()
        if name in names or not engine.availability().by_name_only
    }


def _variants(engine: Engine, options: PlanOptions) -> Sequence[Mapping[str, OptionValue]]:
    """All combinations of the settings, and each again without one switch at a time."""
    given = combinations(engine.name, engine.options, options.settings)
    return [*given, *({**each, name: False} for each in given for name in options.without)]


def _unnamed(
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


def _check_targets(
    options: PlanOptions, known: Mapping[str, Engine], chosen: Mapping[str, Engine]
) -> None:
    targets = {*chosen, options.workload}
    for setting in options.settings:
        if setting.target in known and setting.target not in chosen:
            raise UsageError(
                f"--set {setting.key}: {setting.target} is not among --engines "
                f"{','.join(chosen)}; add it there or leave the setting out"
            )
        if setting.target not in targets:
            raise UnknownNameError("engine or workload in --set", setting.target, targets)


def _hardware(options: PlanOptions, capacity: Capacity) -> Sequence[Hardware]:
    if options.hardware is None:
        return (default_hardware(capacity),)
    return parse_hardware(options.hardware, capacity)


def _workload_specs(workload: Workload, settings: Sequence[Setting]) -> list[WorkloadSpec]:
    defaults = {o.name: o.default for o in workload.options if o.default is not None}
    return [
        WorkloadSpec(workload.name, defaults | chosen)
        for chosen in combinations(workload.name, workload.options, settings)
    ]


def _loads(options: PlanOptions, workload: Workload, spec: WorkloadSpec) -> list[Load]:
    users = [Load(users=each) for each in options.concurrency if not isinstance(each, Sought)]
    rates = [each for each in options.rates if not isinstance(each, Sought)]
    return users + [Load(rate_rps=_rate_rps(rate, workload, spec)) for rate in rates]


def _rate_rps(rate: float | RateMultiple, workload: Workload, spec: WorkloadSpec) -> float:
    if not isinstance(rate, RateMultiple):
        return rate
    if not isinstance(workload, RecordedWorkload):
        raise UsageError(
            f"--rate {rate}: the workload {workload.name} was not recorded at any rate; write "
            "requests per second, as in --rate 4"
        )
    return rate.factor * workload.recorded_rate_rps(spec)


def _model_names(options: PlanOptions) -> Sequence[str]:
    if options.models is not None:
        return options.models
    return (REMOTE_MODEL,) if options.engines == (URL,) else (DEFAULT_MODEL,)


def _unavailable(chosen: Mapping[str, Engine], settings: Sequence[Setting]) -> list[LeftOut]:
    return [out for engine in chosen.values() if (out := why_not(engine, settings)) is not None]


def _refused(axes: _Axes) -> list[LeftOut]:
    return [
        LeftOut(name, reason, where=_where(model, hardware))
        for name, engine in axes.engines.items()
        for model in axes.models
        for hardware in axes.hardware
        if (reason := engine.refuses(axes.models[model], hardware)) is not None
    ]


def _where(model: str, hardware: Hardware) -> str:
    return f"{model} with {hardware}"


def _raise_if_named(options: PlanOptions, left_out: Sequence[LeftOut]) -> None:
    if named := [out for out in left_out if out.engine in options.engines]:
        raise UsageError("\n".join(str(out) for out in named))


def _cells(options: PlanOptions, axes: _Axes, refused: set[tuple[str, str]]) -> Iterator[Cell]:
    budget = _budget(options)
    index = 0
    for repeat, model, hardware in itertools.product(
        range(options.repeats), axes.models, axes.hardware
    ):
        specs = _specs(axes, model, hardware, refused)
        turned = specs if repeat % 2 == 0 else specs[::-1]
        for spec, (workload, load) in _pairs(
            turned, axes.drives, options.run_settings.reuse_servers
        ):
            drive = (workload, load)
            yield new_cell(index, spec, drive, budget, repeat, plan_seed=options.seed)
            index += 1


def _budget(options: PlanOptions) -> Budget:
    return Budget(
        options.requests,
        options.duration_s,
        options.warmup_requests,
        options.warmup_until_steady,
    )


def _specs(
    axes: _Axes, model: str, hardware: Hardware, refused: set[tuple[str, str]]
) -> list[EngineSpec]:
    return [
        EngineSpec(engine, model, hardware, variant)
        for engine in axes.engines
        if (engine, _where(model, hardware)) not in refused
        for variant in axes.variants[engine]
    ]


def _searches(options: PlanOptions, axes: _Axes, refused: set[tuple[str, str]]) -> Iterator[Search]:
    """Searches for loads, engine by engine, then the one for precision."""
    budget = _budget(options)
    number = 0
    for model, hardware in itertools.product(axes.models, axes.hardware):
        specs = _specs(axes, model, hardware, refused)
        for (workload, sought), spec in itertools.product(axes.sought, specs):
            users = sought in options.concurrency
            load = Load(users=int(sought.first)) if users else Load(rate_rps=sought.first)
            name = f"{number:02d}-{safe_name(spec.engine)}-{sought.goal}"
            first = new_cell(
                0, spec, (workload, load), budget, 0, plan_seed=options.seed, search=name
            )
            target = options.slo_share if sought.goal == "slo" else KEPT_UP_SHARE
            yield Search(name, sought.goal, options.budget_s, target, first)
            number += 1
    if options.precision is not None and axes.drives:
        yield Search("precision", "precision", options.budget_s, options.precision)


def _pairs(specs: Sequence[A], drives: Sequence[B], specs_first: bool) -> Iterator[tuple[A, B]]:
    if specs_first:
        return itertools.product(specs, drives)
    return ((spec, drive) for drive, spec in itertools.product(drives, specs))


def _try_workload(
    workload: Workload, cells: Sequence[Cell], models: Mapping[str, ModelInfo]
) -> None:
    """Ask for one request of each kind, so that impossible options fail before anything starts."""
    kinds = {
        (
            cell.spec.model,
            json.dumps(dict(cell.workload.options)),
            cell.load.users is None,
        ): cell
        for cell in cells
    }
    for cell in kinds.values():
        load = cell.load if cell.load.users is None else Load(users=1)
        short = replace(cell, load=load, budget=Budget(requests=1, warmup_requests=0))
        workload.requests(short, models[cell.spec.model])
