"""What the server told of itself while it was measured: its queue, its cache, its preemptions.

Scraped about once a second under common names (`enginebench.scrape`); a server that does not tell
leaves the figures empty. Means and differences are over the window that rates are taken over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from enginebench.types import MetricInfo
from enginebench_reports.resources import series
from enginebench_reports.throughput import Window

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COLUMNS", "server_side"]

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "server_running_mean",
        "requests",
        "neither",
        "Requests that the server worked on at once, as it tells, mean over the window",
    ),
    MetricInfo(
        "server_waiting_mean",
        "requests",
        "lower",
        "Requests that waited in the server, as it tells, mean over the window",
    ),
    MetricInfo(
        "server_kv_used_share_max",
        "share",
        "neither",
        "Largest share of the KV cache in use, as the server tells, over the window",
    ),
    MetricInfo(
        "kv_waste_share",
        "share",
        "lower",
        "Share of the cache held by requests that holds no token, as the server tells, mean over"
        " the window",
    ),
    MetricInfo(
        "server_prefix_hit_share",
        "share",
        "neither",
        "Prompt tokens found in the server's prefix cache / those looked up, as it tells",
    ),
    MetricInfo(
        "server_preemptions",
        "preemptions",
        "lower",
        "Requests that the server set back for want of cache, as it tells, in the window",
    ),
)


def server_side(telemetry: pa.Table, window: Window | None) -> Mapping[str, float | None]:
    """All of COLUMNS."""
    if window is None:
        return dict.fromkeys(column.name for column in COLUMNS)
    running = _inside(telemetry, "server_running", window)
    waiting = _inside(telemetry, "server_waiting", window)
    used = _inside(telemetry, "server_kv_used_share", window)
    filled = _mean(_inside(telemetry, "server_kv_filled_share", window))
    queried = _growth(telemetry, "server_prefix_queried_tokens", window)
    hit = _growth(telemetry, "server_prefix_hit_tokens", window)
    return {
        "server_running_mean": _mean(running),
        "server_waiting_mean": _mean(waiting),
        "server_kv_used_share_max": max(used, default=None),
        "kv_waste_share": None if filled is None else 1.0 - filled,
        "server_prefix_hit_share": hit / queried if queried and hit is not None else None,
        "server_preemptions": _growth(telemetry, "server_preemptions", window),
    }


def _inside(telemetry: pa.Table, name: str, window: Window) -> Sequence[float]:
    times, values = series(telemetry, name)
    return [float(value) for value in values[window.holds(times)]]


def _growth(telemetry: pa.Table, name: str, window: Window) -> float | None:
    """How far a counter rose inside the window."""
    values = _inside(telemetry, name, window)
    return values[-1] - values[0] if len(values) > 1 else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
