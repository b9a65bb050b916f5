"""Which figures of two arms may be set against each other, and in which pairs.

An arm is a list of cells: those of a Run, of several Runs, or of one engine in a Run. Cells of two
arms belong together when model, hardware, workload, load and budget are equal, and the engine with
its options too; arms that each hold one engine, or one set of options per engine, are matched
without them, so that `paged block_size=16` can meet `paged block_size=32`, and `paged` can meet
`quant`. Repeats are paired in the order in which they were run. What cannot be paired is
reported, never dropped in silence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from enginebench.plugins import PluginManager, metrics
from enginebench.results import CellResult, ResultSet
from enginebench.types import Budget, MetricInfo, OptionValue
from enginebench_reports.groups import model_name
from enginebench_reports.summary import CellSummary
from enginebench_reports.validity import flags

__all__ = [
    "Arm",
    "Match",
    "Pairs",
    "Place",
    "arm_of",
    "arm_of_cells",
    "arms_by_engine",
    "match",
    "metric_infos",
    "pairs_of",
]

Options = tuple[tuple[str, OptionValue], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What must be equal in cells that are compared. No engine: whatever the arm holds."""

    engine: str | None
    options: Options | None
    model: str
    hardware: str
    workload: str
    workload_options: Options
    load: str
    budget: Budget

    @classmethod
    def of(cls, result: CellResult) -> Place:
        cell = result.cell
        return cls(
            cell.spec.engine,
            tuple(sorted(cell.spec.options.items())),
            cell.spec.model,
            str(cell.spec.hardware),
            cell.workload.name,
            tuple(sorted(cell.workload.options.items())),
            str(cell.load),
            cell.budget,
        )

    @property
    def parts(self) -> Mapping[str, str]:
        """The place in words; a table leaves out what all of its rows share."""
        options = " ".join(f"{name}={value}" for name, value in self.options or ())
        return {
            "engine": f"{self.engine or ''} {options}".strip(),
            "model": model_name(self.model),
            "hardware": self.hardware,
            "workload": self.workload,
            "workload options": " ".join(f"{n}={v}" for n, v in self.workload_options),
            "load": self.load,
            "budget": _budget_text(self.budget),
        }

    def __str__(self) -> str:
        names = ("engine", "model", "hardware", "workload", "load")
        return " ".join(part for name in names if (part := self.parts[name]))


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """Cells by place, each list in the order of the runs."""

    name: str
    cells: Mapping[Place, Sequence[CellSummary]]

    @property
    def is_null(self) -> bool:
        """Whether it holds nothing but engines that compute nothing."""
        return all(cell.result.is_null for cells in self.cells.values() for cell in cells)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Places that both arms have, and those that only one has."""

    both: Mapping[Place, tuple[Sequence[CellSummary], Sequence[CellSummary]]]
    only_first: Sequence[Place]
    only_second: Sequence[Place]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Figures of one metric at one place. `missing` counts pairs in which an arm has no figure
    above zero; none of them is in `values`.
    """

    place: Place
    metric: MetricInfo
    values: Sequence[tuple[float, float]]
    missing: int


def metric_infos(manager: PluginManager | None = None) -> Mapping[str, MetricInfo]:
    """Every metric's columns by name."""
    return {info.name: info for metric in metrics(manager) for info in metric.columns}


def arm_of(name: str, results: ResultSet, manager: PluginManager | None = None) -> Arm:
    """All cells of `results` as one arm, with their figures and the reasons to doubt them."""
    return arm_of_cells(name, _summaries(results, manager))


def arm_of_cells(name: str, summaries: Iterable[CellSummary]) -> Arm:
    """Cells whose figures are known already."""
    cells: dict[Place, list[CellSummary]] = {}
    for summary in summaries:
        cells.setdefault(Place.of(summary.result), []).append(summary)
    return Arm(name, cells)


def _summaries(results: ResultSet, manager: PluginManager | None) -> Iterator[CellSummary]:
    known = metrics(manager)
    for result in results:
        figures: dict[str, float | None] = {}
        for metric in known:
            figures.update(metric.compute(result))
        yield CellSummary(result, figures, flags(result, figures))


def arms_by_engine(arm: Arm) -> Sequence[Arm]:
    """One arm for each engine with its options, in order of first appearance."""
    parts: dict[str, dict[Place, Sequence[CellSummary]]] = {}
    for place, cells in arm.cells.items():
        parts.setdefault(place.parts["engine"], {})[place] = cells
    return [Arm(name, cells) for name, cells in parts.items()]


def match(first: Arm, second: Arm) -> Match:
    """Places in common: exactly, else whatever the options, else whatever the engine."""
    found: Match | None = None
    for level in (_exactly, _any_options, _any_engine):
        one, other = _at(first, level), _at(second, level)
        if one is None or other is None:
            break
        both = {place: (one[place], other[place]) for place in one if place in other}
        found = Match(
            both,
            [place for place in one if place not in other],
            [place for place in other if place not in one],
        )
        if both:
            break
    assert found is not None
    return found


def pairs_of(
    place: Place,
    metric: MetricInfo,
    cells: tuple[Sequence[CellSummary], Sequence[CellSummary]],
) -> Pairs:
    """The k-th cell of one arm beside the k-th of the other; invalid cells have no figures."""
    values, missing = [], 0
    for one, other in zip(*cells, strict=False):
        pair = (_figure(one, metric.name), _figure(other, metric.name))
        if pair[0] is None or pair[1] is None:
            missing += 1
        else:
            values.append((pair[0], pair[1]))
    return Pairs(place, metric, values, missing)


def _exactly(place: Place) -> Place:
    return place


def _any_options(place: Place) -> Place:
    return replace(place, options=None)


def _any_engine(place: Place) -> Place:
    return replace(place, engine=None, options=None)


def _at(arm: Arm, level: Callable[[Place], Place]) -> Mapping[Place, Sequence[CellSummary]] | None:
    """The arm's cells by coarser places; None where two of its places would become one."""
    if any(count > 1 for count in Counter(map(level, arm.cells)).values()):
        return None
    return {level(place): cells for place, cells in arm.cells.items()}


def _figure(cell: CellSummary, name: str) -> float | None:
    value = cell.figures.get(name) if cell.is_valid else None
    return value if value is not None and value > 0 and math.isfinite(value) else None


def _budget_text(budget: Budget) -> str:
    parts = [f"{budget.requests} requests"] if budget.requests is not None else []
    parts += [f"{budget.duration_s:g} s"] if budget.duration_s is not None else []
    return " or ".join(parts)
