"""How many replicas of which engine a load needs to keep an SLO, from measured service curves.

Requests arrive as from independent users (Poisson), all of the lengths that were measured. The
number of replicas is the least for which enough of the simulated requests keep the SLO. A fleet of
more than `SLICE` replicas is simulated as one of `SLICE` with its share of the load: larger fleets
even out bursts at least as well, so that this errs on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginebench.results import ResultSet
from enginebench.slo import Slo
from enginebench_reports.capacity_curve import ServiceCurve
from enginebench_reports.capacity_simulation import Served, poisson_times, simulate
from enginebench_reports.groups import Group, curve
from enginebench_reports.measured import Bools, Floats, Measured
from enginebench_reports.summary import Summary

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Check", "Fleet", "check_against", "least_fleet"]

SLICE = 32
REQUESTS_A_REPLICA = 400
FEWEST_REQUESTS = 4000
WARM_UP = 0.2
"""Share of the simulated requests that come before the fleet is filled, and are not counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """What a load needs of one engine. `replicas` None: no number of them keeps the SLO, since
    `met_share` is what an idle replica reaches. `load_share` is the load over what the replicas
    could serve at most.
    """

    curve: ServiceCurve
    rate_rps: float
    replicas: int | None
    met_share: float
    load_share: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """The model held against an open-loop cell: medians, in seconds."""

    curve: ServiceCurve
    rate_rps: float
    metric: str
    measured_s: float
    simulated_s: float


def least_fleet(
    service: ServiceCurve, rate_rps: float, slo: Slo, *, share: float, seed: int = 0
) -> Fleet:
    """The smallest fleet in which at least `share` of the requests keep `slo`."""
    alone = simulate(service, np.zeros(1), 1)
    if not met(alone, slo).all():
        return _fleet(service, rate_rps, None, alone, slo)
    enough = max(1, math.ceil(rate_rps / service.requests_per_s))
    lower, served = enough - 1, _steady(service, rate_rps, enough, seed)
    while met(served, slo).mean() < share:
        lower, enough = enough, 2 * enough
        served = _steady(service, rate_rps, enough, seed)
    while enough - lower > max(1, enough // 200):  # half a percent of a large fleet is noise
        middle = (lower + enough) // 2
        tried = _steady(service, rate_rps, middle, seed)
        if met(tried, slo).mean() >= share:
            enough, served = middle, tried
        else:
            lower = middle
    return _fleet(service, rate_rps, enough, served, slo)


def check_against(services: Sequence[ServiceCurve], summary: Summary) -> Iterator[Check]:
    """Each curve against the open-loop cells of the same engine, model, machine and hardware, fed
    with the very arrivals that those cells had.
    """
    for service in services:
        for group in summary.groups:
            if group.loop == "open" and _alike(service.group, group):
                yield from _checks(service, group, summary.results)


def met(served: Served, slo: Slo) -> Bools:
    """Which requests kept every bound."""
    found = {"ttft": served.ttft_s, "tpot": served.tpot_s, "e2e": served.e2e_s}
    kept = [found[name] <= bound * (1 + 1e-9) for name, bound in slo.bounds_s.items()]
    every: Bools = np.logical_and.reduce(kept)
    return every


def _steady(service: ServiceCurve, rate_rps: float, replicas: int, seed: int) -> Served:
    """What a part of the fleet gives once it is warm."""
    part = min(replicas, SLICE)
    count = max(FEWEST_REQUESTS, REQUESTS_A_REPLICA * part)
    served = simulate(service, poisson_times(rate_rps * part / replicas, count, seed), part)
    warm = slice(int(WARM_UP * count), None)
    return Served(served.ttft_s[warm], served.tpot_s[warm], served.e2e_s[warm])


def _fleet(
    service: ServiceCurve, rate_rps: float, replicas: int | None, served: Served, slo: Slo
) -> Fleet:
    return Fleet(
        service,
        rate_rps,
        replicas,
        float(met(served, slo).mean()),
        0.0 if replicas is None else rate_rps / (replicas * service.requests_per_s),
        float(np.median(served.ttft_s)),
        float(np.percentile(served.ttft_s, 99)),
        float(np.median(served.tpot_s)),
    )


def _alike(one: Group, other: Group) -> bool:
    return (one.model, one.machine, one.hardware, one.workload) == (
        other.model,
        other.machine,
        other.hardware,
        other.workload,
    )


def _checks(service: ServiceCurve, group: Group, results: ResultSet) -> Iterator[Check]:
    for metric, of in (("ttft_s_p50", "ttft_s"), ("tpot_s_p50", "tpot_s"), ("e2e_s_p50", "e2e_s")):
        for point in curve(group, service.label, metric):
            played = [
                simulate(service, arrivals_s, 1)
                for arrivals_s in _arrivals(group.frame, service.label, point.load, results)
            ]
            simulated_s = float(np.median([np.median(getattr(served, of)) for served in played]))
            yield Check(service, point.load, metric, point.median, simulated_s)


def _arrivals(
    frame: pd.DataFrame, label: str, rate_rps: float, results: ResultSet
) -> Iterator[Floats]:
    """When the measured requests of each such cell were due, from its first."""
    chosen = frame[(frame["label"] == label) & (frame["rate_rps"] == rate_rps)]
    wanted = set(zip(chosen["run"], chosen["cell"], strict=True))
    for result in results:
        if (result.run.folder.name, result.cell.id) in wanted:
            due_ns = np.sort(Measured.of(result.records).scheduled_ns)
            if len(due_ns):
                yield (due_ns - due_ns[0]) * 1e-9
