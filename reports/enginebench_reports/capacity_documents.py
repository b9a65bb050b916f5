"""Fleets as a table on the terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from enginebench.slo import Slo
from enginebench_reports.capacity import Check, Fleet
from enginebench_reports.quantities import DASH, amount, quantity, tick

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["checks_table", "fleets_table", "json_text"]

Prices = Mapping[str, float]
"""Dollars an hour of one replica, by hardware (`cuda:0`)."""


def fleets_table(fleets: Sequence[Fleet], slo: Slo, share: float, prices: Prices) -> Table:
    """A row for each rate and engine; the cheapest of a rate stands out where all have a price."""
    from rich.table import Table

    table = Table(title=f"replicas for {100 * share:.4g}% of all requests to keep {slo}")
    for name in ("requests/s", "engine", "on"):
        table.add_column(name)
    for name in ("replicas", "load", "SLO kept", "TTFT p50", "TTFT p99", "TPOT p50", "$/h"):
        table.add_column(name, justify="right")
    cheapest = dict(_cheapest(fleets, prices))
    for fleet in fleets:
        is_best = cheapest.get(fleet.rate_rps) is fleet
        table.add_row(*_row(fleet, prices), style="green" if is_best else None)
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """The model beside what was measured in open-loop cells of the same Runs."""
    from rich.table import Table

    table = Table(title="the model, held against measured open-loop cells")
    for name in ("engine", "requests/s", "figure"):
        table.add_column(name)
    for name in ("measured", "simulated", "off by"):
        table.add_column(name, justify="right")
    for check in checks:
        off = check.simulated_s / check.measured_s - 1
        measured, simulated = quantity(check.measured_s, "s"), quantity(check.simulated_s, "s")
        rate = tick(check.rate_rps)
        table.add_row(check.curve.label, rate, check.metric, measured, simulated, f"{off:+.0%}")
    return table


def json_text(fleets: Sequence[Fleet], checks: Sequence[Check], prices: Prices) -> str:
    """Everything, for programs."""
    document = {
        "fleets": [_json(fleet, prices) for fleet in fleets],
        "checks": [
            {
                "engine": check.curve.label,
                "rate_rps": check.rate_rps,
                "metric": check.metric,
                "measured_s": check.measured_s,
                "simulated_s": check.simulated_s,
            }
            for check in checks
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def cost_per_hour(fleet: Fleet, prices: Prices) -> float | None:
    """Of the whole fleet; None without a price, or without a fleet."""
    price = prices.get(fleet.curve.group.hardware)
    return None if price is None or fleet.replicas is None else price * fleet.replicas


def _cheapest(fleets: Sequence[Fleet], prices: Prices) -> Iterator[tuple[float, Fleet]]:
    for rate in dict.fromkeys(fleet.rate_rps for fleet in fleets):
        costs = [
            (cost, fleet)
            for fleet in fleets
            if fleet.rate_rps == rate and (cost := cost_per_hour(fleet, prices)) is not None
        ]
        if costs:
            yield rate, min(costs, key=lambda pair: pair[0])[1]


def _row(fleet: Fleet, prices: Prices) -> Sequence[str]:
    from rich.markup import escape

    group, cost = fleet.curve.group, cost_per_hour(fleet, prices)
    where = " of ".join(part for part in (group.hardware, group.machine) if part)
    return (
        tick(fleet.rate_rps),
        escape(f"{fleet.curve.label}, {group.model}"),
        escape(where),
        "none is enough" if fleet.replicas is None else f"{fleet.replicas:,}",
        DASH if fleet.replicas is None else f"{fleet.load_share:.0%}",
        f"{fleet.met_share:.1%}",
        quantity(fleet.ttft_p50_s, "s"),
        quantity(fleet.ttft_p99_s, "s"),
        quantity(fleet.tpot_p50_s, "s"),
        DASH if cost is None else amount(cost),
    )


def _json(fleet: Fleet, prices: Prices) -> Mapping[str, Any]:
    group = fleet.curve.group
    return {
        "engine": fleet.curve.label,
        "model": group.model,
        "hardware": group.hardware,
        "machine": group.machine,
        "rate_rps": fleet.rate_rps,
        "replicas": fleet.replicas,
        "load_share": fleet.load_share,
        "slo_met_share": fleet.met_share,
        "ttft_s_p50": fleet.ttft_p50_s,
        "ttft_s_p99": fleet.ttft_p99_s,
        "tpot_s_p50": fleet.tpot_p50_s,
        "price_per_hour": cost_per_hour(fleet, prices),
    }
