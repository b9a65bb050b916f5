"""Trends as a table, as a plot, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from enginebench_reports.compare_table import change_text, place_titles, shared_title
from enginebench_reports.history import CommitStep, Trend, machine_title
from enginebench_reports.history_store import Commit
from enginebench_reports.look import FONT_PT, INK, MUTED, tidy
from enginebench_reports.quantities import quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["json_text", "plot", "step_lines", "table"]

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 40
SHORT = 10
WORSE, BETTER = "#bb2d5b", "#12805c"
PANEL_INCHES = (7.2, 2.3)


def table(trends: Sequence[Trend]) -> RenderableType:
    """One table for each machine; a single trend is shown commit by commit."""
    from rich.console import Group

    if len(trends) == 1:
        return _commits(trends[0])
    return Group(
        *(_overview(machine, list(found)) for machine, found in groupby(trends, _machine_of))
    )


def step_lines(trends: Sequence[Trend]) -> Iterator[str]:
    """A sentence for each step, and one on what could not be found."""
    for trend in trends:
        for step in trend.steps:
            yield _step_line(trend, step)
    if not any(trend.steps for trend in trends):
        yield f"no step in {len(trends)} series"
    short = [trend for trend in trends if trend.fewest is None]
    if short:
        yield f"{len(short)} series are too short for any step to be found; measure more commits"
    elif trends:
        most = max(trend.fewest or 0 for trend in trends)
        yield f"a step is found at the earliest {most} measured commits after it"


def json_text(trends: Sequence[Trend]) -> str:
    """Everything, for machines."""
    document = [
        {
            "machine": json.loads(trend.machine),
            "cell": dict(trend.place.parts),
            "metric": trend.metric.name,
            "unit": trend.metric.unit,
            "better": trend.metric.better,
            "commits": [
                {**_commit(point.commit), "value": point.value, "cells": point.count}
                for point in trend.points
            ],
            "steps": [
                {
                    "last": step.last.id,
                    "commit": step.commit.id,
                    "slowdown": step.slowdown,
                    "p_value": step.p_value,
                }
                for step in trend.steps
            ],
        }
        for trend in trends
    ]
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def plot(trends: Sequence[Trend]) -> Figure:
    """One panel for each trend: commits in order, levels between steps, steps by commit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = PANEL_INCHES
    figure = Figure(figsize=(width, height * len(trends)), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, trend in zip(figure.subplots(len(trends), squeeze=False)[:, 0], trends, strict=True):
        title = f"{trend.metric.name}: {trend.place}\n{machine_title(trend.machine)}"
        tidy(panel, title=title, x="", y=trend.metric.unit)
        values = [point.value for point in trend.points]
        panel.plot(range(len(values)), values, "o", color=INK, markersize=3.5)
        for start, end, level in trend.levels:
            panel.hlines(level, start - 0.4, end + 0.4, color=MUTED, linewidth=1.5)
        for (start, _, level), step in zip(trend.levels[1:], trend.steps, strict=True):
            colour = WORSE if step.is_worse else BETTER
            panel.axvline(start - 0.5, color=colour, linewidth=1, linestyle="--")
            said = f"{step.commit.id[:SHORT]} {_by(step)}"
            panel.annotate(
                said, (start - 0.4, level), color=colour, fontsize=FONT_PT - 1, va="bottom"
            )
        _name_commits(panel, [point.commit for point in trend.points])
    return figure


def _name_commits(panel: Any, commits: Sequence[Commit]) -> None:
    """As many as fit."""
    every = max(1, -(-len(commits) // 12))
    places = range(0, len(commits), every)
    panel.set_xticks(list(places), [commits[place].id[:7] for place in places])


def _overview(machine: str, trends: Sequence[Trend]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    places = [trend.place for trend in trends]
    drawn = Table(title=escape(f"{machine_title(machine)} · {shared_title(places)}"))
    for name, side in (
        ("cell", "left"),
        ("metric", "left"),
        ("commits", "right"),
        ("trend", "left"),
        ("last", "right"),
        ("worse than first", "right"),
        ("steps", "left"),
    ):
        drawn.add_column(name, justify="right" if side == "right" else "left")
    for title, trend in zip(place_titles(places), trends, strict=True):
        steps = ", ".join(f"{_by(step)} at {step.commit.id[:SHORT]}" for step in trend.steps)
        drawn.add_row(
            escape(title),
            trend.metric.name,
            str(len(trend.points)),
            _bars([point.value for point in trend.points[-MOST_BARS:]]),
            quantity(trend.points[-1].value, trend.metric.unit),
            change_text(trend.since_first),
            steps or "none",
        )
    return drawn


def _commits(trend: Trend) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    title = f"{trend.metric.name} · {trend.place} · {machine_title(trend.machine)}"
    drawn = Table(title=escape(title))
    for name in ("commit", "date", "cells", trend.metric.name, "", "subject"):
        drawn.add_column(name, justify="right" if name in ("cells", trend.metric.name) else "left")
    steps = {step.commit.id: step for step in trend.steps}
    bars = _bars([point.value for point in trend.points])
    for bar, point in zip(bars, trend.points, strict=True):
        step = steps.get(point.commit.id)
        mark = "" if step is None else f" step: {_by(step)}"
        drawn.add_row(
            point.commit.id[:SHORT],
            f"{point.commit.at:%Y-%m-%d %H:%M}",
            str(point.count),
            quantity(point.value, trend.metric.unit),
            f"{bar}{mark}",
            escape(point.commit.subject),
        )
    return drawn


def _step_line(trend: Trend, step: CommitStep) -> str:
    subject = f" ({step.commit.subject})" if step.commit.subject else ""
    return (
        f"{trend.metric.name} of {trend.place} on {machine_title(trend.machine)}: {_by(step)} at "
        f"{step.commit.id[:SHORT]}{subject}, p = {step.p_value:.2g}; "
        f"git log {step.last.id[:SHORT]}..{step.commit.id[:SHORT]}"
    )


def _by(step: CommitStep) -> str:
    by = change_text(abs(step.slowdown)).lstrip("+")
    return f"{by} {'worse' if step.is_worse else 'better'}"


def _bars(values: Sequence[float]) -> str:
    """One bar for each value, from the lowest to the highest."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def _machine_of(trend: Trend) -> str:
    return trend.machine


def _commit(commit: Commit) -> Mapping[str, str]:
    return {"id": commit.id, "at": commit.at.isoformat(), "subject": commit.subject}
