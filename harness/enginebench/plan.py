"""From options to a Plan: which cells there are, and which engines stay out (`axes`, `left_out`).

Nothing is started or written here; what cannot run is found now
or, at the latest, when the engine's process says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from enginebench import plugins
from enginebench.axes import Axes, cells, searches
from enginebench.errors import UnknownNameError, UsageError
from enginebench.hardware import Capacity, default_hardware, parse_hardware, this_capacity
from enginebench.left_out import LeftOut, raise_if_named, refused, unavailable, unnamed
from enginebench.new_cell import safe_name
from enginebench.options import ALL, URL, PlanOptions, RateMultiple, Sought
from enginebench.run_settings import RunSettings
from enginebench.settings import Setting, combinations
from enginebench.types import (
    Budget,
    Cell,
    Engine,
    Hardware,
    Load,
    ModelInfo,
    NullEngine,
    OptionValue,
    Plan,
    RecordedWorkload,
    Workload,
    WorkloadSpec,
)

__all__ = ["DEFAULT_MODEL", "Planned", "build_plan"]

DEFAULT_MODEL = "smollm2-135m"
REMOTE_MODEL = "remote"


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, what `all` could not include in it, and how it is to be executed."""

    plan: Plan
    left_out: tuple[LeftOut, ...]
    settings: RunSettings = field(default_factory=RunSettings)


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
    left_out = unavailable(chosen, options.settings) + unnamed(known_engines, chosen, options)
    raise_if_named(options, left_out)
    ready = {n: e for n, e in chosen.items() if n not in {out.engine for out in left_out}}
    models = {name: plugins.resolve_model(name, manager) for name in _model_names(options)}
    axes = Axes(models, hardware, drives, ready, variants, sought)
    left_out += refused(ready, models, hardware)
    raise_if_named(options, left_out)
    kept_out = {(out.engine, out.where) for out in left_out}
    every = tuple(cells(options, axes, kept_out))
    sought_for = tuple(searches(options, axes, kept_out))
    if not every and not sought_for:
        raise UsageError("no engine can run:\n" + "\n".join(f"  {out}" for out in left_out))
    firsts = [search.first for search in sought_for if search.first is not None]
    _try_workload(workload, [*every, *firsts], models)
    name = options.name or "-".join(safe_name(model) for model in models)[:60]
    null = tuple(sorted(n for n, engine in ready.items() if isinstance(engine, NullEngine)))
    plan = Plan(name, options.seed, every, models, null, sought_for)
    _check_reference(options.run_settings, every)
    settings = options.run_settings
    if settings.switch_to is not None:
        settings = replace(
            settings, switch_to=plugins.resolve_model(settings.switch_to, manager).name
        )
    return Planned(plan, tuple(left_out), settings)


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
