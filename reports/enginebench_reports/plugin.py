"""Registers the built-in metrics and report formats. Imports neither numpy, pandas nor matplotlib.

Each format's code is imported when it renders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from enginebench import hookimpl
from enginebench.gate import Gate, GateRules, Judgement, LooksTaken
from enginebench.results import CellResult, ResultSet
from enginebench.search import Found, More, Searcher
from enginebench.types import Flag, Metric, MetricInfo, Report, Search

if TYPE_CHECKING:
    import click

__all__ = [
    "LazyGate",
    "LazyReport",
    "LazySearcher",
    "ServingMetrics",
    "enginebench_commands",
    "enginebench_flags",
    "enginebench_gate",
    "enginebench_metrics",
    "enginebench_reports",
    "enginebench_searcher",
]


class ServingMetrics:
    """The figures of a serving benchmark; see `enginebench_reports.metrics`."""

    @cached_property
    def columns(self) -> Sequence[MetricInfo]:
        from enginebench_reports.metrics import COLUMNS

        return COLUMNS

    def compute(self, cell: CellResult) -> Mapping[str, float | None]:
        """See `Metric.compute`."""
        from enginebench_reports.metrics import serving_figures

        return serving_figures(cell)


@dataclass
class LazyReport:
    """A report whose `render` lives in a module of this package."""

    name: str
    summary: str
    module: str

    def render(self, results: ResultSet, folder: Path) -> Sequence[Path]:
        """See `Report.render`."""
        module = import_module(f"enginebench_reports.{self.module}")
        return cast(Sequence[Path], module.render(results, folder))


class LazyGate:
    """See `enginebench_reports.gate`."""

    def judge(
        self,
        baseline: ResultSet,
        current: ResultSet,
        rules: GateRules,
        looks: LooksTaken | None = None,
    ) -> Judgement:
        """See `Gate.judge`."""
        from enginebench_reports.gate import judge

        return judge(baseline, current, rules, looks)


class LazySearcher:
    """See `enginebench_reports.load_search` and `enginebench_reports.precision_search`."""

    def next_step(
        self, search: Search, cells: Sequence[CellResult], spent_s: float
    ) -> More | Found:
        """See `Searcher.next_step`."""
        from enginebench_reports.load_search import next_load
        from enginebench_reports.precision_search import next_round

        decide = next_round if search.goal == "precision" else next_load
        return decide(search, cells, spent_s)


REPORTS: Sequence[Report] = (
    LazyReport("html", "One self-contained page, light and dark: report.html", "html"),
    LazyReport("markdown", "A summary for pull requests, with PNG plots: report.md", "markdown"),
    LazyReport("plots", "Every plot as PNG and SVG: plots/", "figures"),
    LazyReport("claims", "Common claims, held against these Runs: claims.md", "claims_documents"),
    LazyReport("why", "What each technique is worth, from `bench why`: why.md", "why_documents"),
    LazyReport("csv", "One row per cell with every metric: cells.csv", "csv_table"),
    LazyReport("json", "Cells, metrics, flags and definitions: report.json", "json_document"),
)


@hookimpl
def enginebench_metrics() -> Sequence[Metric]:
    return [ServingMetrics()]


@hookimpl
def enginebench_flags(cell: CellResult, figures: Mapping[str, float | None]) -> Sequence[Flag]:
    from enginebench_reports.validity import flags

    return flags(cell, figures)


@hookimpl
def enginebench_reports() -> Sequence[Report]:
    return REPORTS


@hookimpl
def enginebench_gate() -> Gate:
    return LazyGate()


@hookimpl
def enginebench_searcher() -> Searcher:
    return LazySearcher()


@hookimpl
def enginebench_commands() -> Sequence[click.Command]:
    from enginebench_reports.capacity_command import plan_capacity
    from enginebench_reports.commands import claims, compare
    from enginebench_reports.history_command import history

    return [claims, compare, history, plan_capacity]
