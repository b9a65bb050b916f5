"""What became of the requests, and what the client itself added.

Unlike the latencies, these count failed requests too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginebench.results import CellStatus
from enginebench.types import MetricInfo
from enginebench_reports.measured import Floats, Measured
from enginebench_reports.percentiles import percentiles

__all__ = ["COLUMNS", "outcome"]

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo("requests_ok", "requests", "neither", "Measured requests that were answered"),
    MetricInfo("requests_failed", "requests", "lower", "Measured requests that failed"),
    MetricInfo("error_rate", "share", "lower", "Failed share of the measured requests"),
    MetricInfo(
        "client_queue_s_p99",
        "s",
        "lower",
        "How late requests were sent, 99th percentile: the client's own delay",
    ),
    MetricInfo("client_queue_s_max", "s", "lower", "How late the latest request was sent"),
    MetricInfo("client_cpu_s", "s", "lower", "CPU time of the load driver's process"),
    MetricInfo("ready_s", "s", "lower", "Engine start to first healthy answer"),
    MetricInfo(
        "switch_s",
        "s",
        "lower",
        "One token of a model that did not answer last, where the server changes models itself",
    ),
)


def outcome(measured: Measured, status: CellStatus) -> Mapping[str, float | None]:
    """All of COLUMNS."""
    total = len(measured) + measured.failed
    delays: Floats = (measured.sent_ns - measured.scheduled_ns) * 1e-9
    return {
        "requests_ok": float(len(measured)),
        "requests_failed": float(measured.failed),
        "error_rate": measured.failed / total if total else None,
        "client_queue_s_p99": percentiles(delays, [99])[0],
        "client_queue_s_max": float(delays.max()) if len(delays) else None,
        "client_cpu_s": status.client_cpu_s,
        "ready_s": status.ready_s,
        "switch_s": status.switch_s,
    }
