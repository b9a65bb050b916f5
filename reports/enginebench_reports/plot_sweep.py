"""Figures over what does not change within a group: the size of the model, the hardware.

A point is an engine's throughput at the highest load that all of its points share, so that like
is compared with like; engines with nothing to compare are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from enginebench.results import ResultSet
from enginebench_reports.groups import Group, groups, model_name
from enginebench_reports.labels import Ends, name_lines, nothing_to_draw
from enginebench_reports.look import FONT_PT, INK, axes, marks, tidy
from enginebench_reports.quantities import amount, tick
from enginebench_reports.series import Look, Series
from enginebench_reports.strokes import line, points, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["hardware_sweep", "model_sweep"]

THROUGHPUT = "output_tokens_per_s"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One engine over several groups that differ in one thing: (where on the x axis, tokens/s)."""

    name: str
    label: str
    load: float
    steps: Sequence[tuple[Group, float]]


def model_sweep(results: ResultSet, *, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Output tokens/s against the model's parameters."""
    ax = ax or axes()
    look = look or marks(cell.cell.spec.label for cell in results)
    tidy(ax, title="Output tokens per second against model size", x="parameters, billions")
    billions = {cell.cell.spec.model: (cell.model.parameters or 0) / 1e9 for cell in results}
    known = [group for group in _groups(results) if billions[group.model] > 0]
    sweeps = _sweeps(known, ("machine", "hardware", "workload", "options", "loop"))
    ends: Ends = {}
    for sweep in sweeps:
        places = sorted((billions[group.model], rate, group) for group, rate in sweep.steps)
        said = [
            f"{sweep.name}, {model_name(g.model)}: {amount(rate)} tokens/s" for _, rate, g in places
        ]
        ends[sweep.name] = _draw(ax, sweep, [place[:2] for place in places], said, look)
    if not ends:
        return nothing_to_draw(ax)
    ticks = sorted({billions[group.model] for sweep in sweeps for group, _ in sweep.steps})
    ax.set_xscale("log")
    ax.set_xticks(ticks, [tick(value) for value in ticks])
    ax.minorticks_off()
    return _finish(ax, ends, sweeps, look)


def hardware_sweep(results: ResultSet, *, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Output tokens/s on each hardware, and each machine where there are several."""
    ax = ax or axes()
    look = look or marks(cell.cell.spec.label for cell in results)
    tidy(ax, title="Output tokens per second by hardware", x="")
    sweeps = _sweeps(_groups(results), ("model", "workload", "options", "loop"))
    names = list(dict.fromkeys(_where(group) for sweep in sweeps for group, _ in sweep.steps))
    ends: Ends = {}
    for sweep in sweeps:
        places = sorted((float(names.index(_where(g))), rate) for g, rate in sweep.steps)
        said = [f"{sweep.name}, {names[int(x)]}: {amount(rate)} tokens/s" for x, rate in places]
        ends[sweep.name] = _draw(ax, sweep, places, said, look)
    if not ends:
        return nothing_to_draw(ax)
    ax.set_xticks(range(len(names)), names, fontsize=FONT_PT - 1, color=INK)
    ax.set_xlim(-0.4, len(names) - 0.6)
    return _finish(ax, ends, sweeps, look)


def _groups(results: ResultSet) -> Sequence[Group]:
    return groups(results.to_pandas()) if len(results) else []


def _sweeps(found: Sequence[Group], same: Sequence[str]) -> Sequence[Sweep]:
    """Engines that ran in several groups which are the `same` in these fields."""
    families: dict[tuple[str, ...], list[Group]] = {}
    for group in found:
        families.setdefault(tuple(getattr(group, name) for name in same), []).append(group)
    sweeps: list[Sweep] = []
    for members in families.values():
        for label in sorted({label for group in members for label in group.labels}):
            sweeps.extend(_sweep(label, members))
    names = Counter(sweep.name for sweep in sweeps)
    return [_told_apart(sweep) if names[sweep.name] > 1 else sweep for sweep in sweeps]


def _told_apart(sweep: Sweep) -> Sweep:
    titles = ", ".join(dict.fromkeys(group.title for group, _ in sweep.steps))
    return replace(sweep, name=f"{sweep.name} ({titles})")


def _sweep(label: str, members: Sequence[Group]) -> Sequence[Sweep]:
    curves = [
        (group, {point.load: point.median for point in found})
        for group in members
        if (found := Series(label, group, label).curve(THROUGHPUT))
    ]
    shared = set.intersection(*(set(rates) for _, rates in curves)) if len(curves) > 1 else set()
    if not shared:
        return []
    load, first = max(shared), curves[0][0]
    name = f"{label} at {first.load_text(load)}"
    return [Sweep(name, label, load, [(group, rates[load]) for group, rates in curves])]


def _where(group: Group) -> str:
    return "\n".join(part for part in (group.hardware or "remote", group.machine) if part)


def _draw(
    ax: Axes,
    sweep: Sweep,
    places: Sequence[tuple[float, float]],
    said: Sequence[str],
    look: Look,
) -> tuple[float, float]:
    xs, ys = [place[0] for place in places], [place[1] for place in places]
    line(ax, xs, ys, sweep.label, look[sweep.label])
    points(ax, zip(xs, ys, said, strict=True), sweep.label, look[sweep.label])
    return xs[-1], ys[-1]


def _finish(ax: Axes, ends: Ends, sweeps: Sequence[Sweep], look: Look) -> Axes:
    ax.set_ylim(bottom=0)
    thousands(ax, "y")
    named: Mapping[str, str] = {sweep.name: sweep.label for sweep in sweeps}
    return name_lines(ax, ends, {name: look[label] for name, label in named.items()}, beside=False)
