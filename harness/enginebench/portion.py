"""What an arm of `bench check` measures in one go, as cells and as options of `bench run`.

The options are for another version of the code, which gets them as a `plan.toml`: what that version
does not know it refuses, instead of measuring something else. A portion is as small as options
can say: one engine on one model, hardware and load, so that the arms take turns often.

    portions = PairPortions(read_plan_file(Path("ci.toml")), manager)
    portions[0], portions[1]     # of the first pair, of the second: other seeds, other prompts
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from enginebench import plugins
from enginebench.errors import UsageError
from enginebench.left_out import LeftOut
from enginebench.options import RawOptions, parse_options
from enginebench.plan import build_plan
from enginebench.plugins import PluginManager
from enginebench.types import Cell, Plan

__all__ = ["PairPortions", "Portion"]

_AXES = frozenset({"engines", "model", "hardware", "concurrency", "rate", "url", "set", "seed"})


@dataclass(frozen=True, slots=True)
class Portion:
    """`plan` holds the cells; `options` plan the same cells again."""

    plan: Plan
    options: RawOptions

    def with_cells(self, cells: Sequence[Cell]) -> Portion:
        """Other cells, which the options do not tell of."""
        return replace(self, plan=replace(self.plan, cells=tuple(cells)))

    def toml(self) -> str:
        """The options as a `plan.toml`."""
        lines = [
            f"{key} = {json.dumps(list(texts), ensure_ascii=False)}"
            for key, texts in self.options.items()
        ]
        return "\n".join(lines) + "\n"


class PairPortions:
    """The portions of each pair; raises UsageError for options that plan nothing."""

    def __init__(self, options: RawOptions, manager: PluginManager | None = None) -> None:
        self._manager = manager
        planned = build_plan(parse_options(options), manager)
        self.plan: Plan = planned.plan
        self.left_out: tuple[LeftOut, ...] = planned.left_out
        self._parts = _parts(options, planned.plan.cells, manager)

    def __getitem__(self, pair: int) -> Sequence[Portion]:
        return [self._portion(part, pair) for part in self._parts]

    def _portion(self, part: RawOptions, pair: int) -> Portion:
        options = {**part, "seed": (str(self.plan.seed + pair),)}
        plan = build_plan(parse_options(options), self._manager).plan
        return Portion(
            replace(plan, cells=tuple(replace(cell, repeat=pair) for cell in plan.cells)), options
        )


def _parts(
    options: RawOptions, cells: Sequence[Cell], manager: PluginManager | None
) -> Sequence[RawOptions]:
    """One set of options for each engine, model, hardware and load; the whole where that fails."""
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        spec = cell.spec
        groups.setdefault((spec.engine, spec.model, spec.hardware, cell.load), []).append(cell)
    parts = [_narrowed(options, group[0], plugins.engines(manager)) for group in groups.values()]
    for part, group in zip(parts, groups.values(), strict=True):
        if not _plans(part, group, manager):
            return [options]
    return parts


def _narrowed(options: RawOptions, cell: Cell, engines: Mapping[str, object]) -> RawOptions:
    kept = {key: texts for key, texts in options.items() if key not in _AXES}
    spec, load = cell.spec, cell.load
    kept |= {"engines": (spec.engine,), "model": (spec.model,), "hardware": (str(spec.hardware),)}
    kept |= {"seed": options.get("seed", ("0",))}
    if load.users is not None:
        kept["concurrency"] = (str(load.users),)
    else:
        kept["rate"] = (repr(load.rate_rps),)
    if spec.engine == "url" and "url" in options:
        kept["url"] = options["url"]
    others = engines.keys() - {spec.engine}
    settings = [text for text in options.get("set", ()) if _target(text) not in others]
    return {**kept, "set": tuple(settings)} if settings else kept


def _plans(part: RawOptions, cells: Sequence[Cell], manager: PluginManager | None) -> bool:
    """Whether `part` plans just these cells."""
    try:
        found = build_plan(parse_options(part), manager).plan.cells
    except UsageError:
        return False
    return [_facts(cell) for cell in found] == [_facts(cell) for cell in cells]


def _facts(cell: Cell) -> Cell:
    """The cell without its place in a plan."""
    return replace(cell, index=0, id="")


def _target(setting: str) -> str:
    return setting.partition(".")[0].strip()
