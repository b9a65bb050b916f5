"""Every axis of a run with all of its values, and the cells and searches that they span.

The order is repeat, model, hardware, workload, load, engine: engines that are compared run next to
each other, and turn about from one repeat to the next (ABBA), so that a machine that gets slower
with time does so for all of them. Servers are reused over loads only, so with `reuse_servers` the
engine comes before the load.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from enginebench.left_out import where
from enginebench.new_cell import new_cell, safe_name
from enginebench.options import PlanOptions, Sought
from enginebench.types import (
    Budget,
    Cell,
    Engine,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    OptionValue,
    Search,
    WorkloadSpec,
)

__all__ = ["Axes", "cells", "searches"]

A = TypeVar("A")
B = TypeVar("B")

KEPT_UP_SHARE = 0.95
"""An engine that completes requests at this share of the rate at which they come keeps up."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Every axis with all of its values: `drives` are workloads under each load, `variants` option
    sets by engine name, `sought` workloads under loads that are to be found.
    """

    models: Mapping[str, ModelInfo]
    hardware: Sequence[Hardware]
    drives: Sequence[tuple[WorkloadSpec, Load]]
    engines: Mapping[str, Engine]
    variants: Mapping[str, Sequence[Mapping[str, OptionValue]]]
    sought: Sequence[tuple[WorkloadSpec, Sought]] = ()


def cells(options: PlanOptions, axes: Axes, refused: set[tuple[str, str]]) -> Iterator[Cell]:
    """All but those of `refused` engines on a model and hardware."""
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
    axes: Axes, model: str, hardware: Hardware, refused: set[tuple[str, str]]
) -> list[EngineSpec]:
    return [
        EngineSpec(engine, model, hardware, variant)
        for engine in axes.engines
        if (engine, where(model, hardware)) not in refused
        for variant in axes.variants[engine]
    ]


def searches(options: PlanOptions, axes: Axes, refused: set[tuple[str, str]]) -> Iterator[Search]:
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
