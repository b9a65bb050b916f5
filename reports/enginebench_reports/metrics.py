"""The built-in metric: every figure that a cell's raw facts yield, in one pass over its records.

The figures themselves stand in `latency`, `throughput`, `goodput`, `outcome`, `resources`,
`phases`, `server_side`, `agreement`, `roofline` and `cost`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginebench.results import CellResult
from enginebench.types import MetricInfo
from enginebench_reports import (
    agreement,
    cost,
    goodput,
    latency,
    outcome,
    phases,
    resources,
    roofline,
    server_side,
    throughput,
)
from enginebench_reports.measured import Measured

__all__ = ["COLUMNS", "serving_figures"]

COLUMNS: Sequence[MetricInfo] = (
    *throughput.COLUMNS,
    *latency.COLUMNS,
    *phases.COLUMNS,
    *goodput.COLUMNS,
    *outcome.COLUMNS,
    *resources.COLUMNS,
    *server_side.COLUMNS,
    *agreement.COLUMNS,
    *cost.COLUMNS,
    *roofline.COLUMNS,
)


def serving_figures(cell: CellResult) -> Mapping[str, float | None]:
    """All of COLUMNS for one cell."""
    measured = Measured.of(cell.records)
    window = throughput.Window.of(cell.status, measured)
    rates = throughput.throughput(measured, window)
    tokens = (rates["output_tokens_per_s"] or 0.0) * window.length_s if window else 0.0
    latencies = latency.latency(measured)
    return {
        **rates,
        **latencies,
        **phases.phases(measured),
        **goodput.goodput(measured, window, cell.run.slo),
        **outcome.outcome(measured, cell.status),
        **resources.resources(cell.telemetry, window, tokens),
        **server_side.server_side(cell.telemetry, window),
        **agreement.agreement(cell),
        **cost.cost(rates["output_tokens_per_s"], cell.run.settings.price_per_hour),
        **roofline.roofline(cell, measured, latencies),
    }
