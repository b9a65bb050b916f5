"""What the engine's processes used: memory, CPU, energy; and how busy the client was.

Peaks are over the whole cell, from the engine's start (loading counts); means and energy over the
window that rates are taken over. A machine without GPUs, or a server that somebody else started,
leaves columns empty, and so stay the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from enginebench.types import MetricInfo
from enginebench_reports.measured import Floats, Ints
from enginebench_reports.throughput import Window

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COLUMNS", "resources", "series"]

POWER_CAP_BIT = 0x4
SLOWED_BITS = 0x8 | 0x20 | 0x40 | 0x80
"""NVML's bits for hardware slowdown, thermal slowdown (by software, by hardware), power brake."""

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "peak_rss_bytes",
        "bytes",
        "lower",
        "Largest resident memory of the engine's processes, mapped model files included",
    ),
    MetricInfo(
        "peak_gpu_memory_bytes", "bytes", "lower", "Largest GPU memory of the engine, all its GPUs"
    ),
    MetricInfo(
        "mean_cpu_percent",
        "%",
        "neither",
        "CPU of the engine's processes during the window; 100 is one core",
    ),
    MetricInfo(
        "client_cpu_percent",
        "%",
        "lower",
        "CPU of the load driver during the window; near 100 it may have been the bottleneck",
    ),
    MetricInfo(
        "peak_threads", "threads", "neither", "Most threads that the engine's processes had at once"
    ),
    MetricInfo(
        "context_switches_per_s",
        "1/s",
        "lower",
        "Context switches of the engine's threads during the window, forced ones included",
    ),
    MetricInfo(
        "mean_sm_clock_mhz", "MHz", "neither", "Clock of the GPUs' multiprocessors in the window"
    ),
    MetricInfo("mean_gpu_memory_clock_mhz", "MHz", "neither", "Clock of the GPUs' memory"),
    MetricInfo(
        "slowed_share",
        "share",
        "lower",
        "Share of the window's samples in which heat or the hardware held the GPUs' clocks down",
    ),
    MetricInfo(
        "power_capped_share",
        "share",
        "neither",
        "Share of the window's samples in which the power limit held the GPUs' clocks down",
    ),
    MetricInfo("mean_power_w", "W", "lower", "GPU power during the window, all GPUs of the cell"),
    MetricInfo(
        "energy_j_per_token", "J/token", "lower", "GPU energy of the window / tokens that arrived"
    ),
)


def resources(
    telemetry: pa.Table, window: Window | None, tokens: float
) -> Mapping[str, float | None]:
    """All of COLUMNS; `tokens` arrived inside `window`."""
    figures: dict[str, float | None] = dict.fromkeys(column.name for column in COLUMNS)
    figures["peak_rss_bytes"] = _peak(telemetry, "rss_bytes")
    figures["peak_threads"] = _peak(telemetry, "threads")
    figures["peak_gpu_memory_bytes"] = _peak(telemetry, "gpu_memory_bytes")
    if window is None:
        return figures
    energy_j = _energy_j(telemetry, window)
    return figures | {
        "mean_cpu_percent": _mean(telemetry, "cpu_percent", window),
        "client_cpu_percent": _mean(telemetry, "client_cpu_percent", window),
        "context_switches_per_s": _switches_per_s(telemetry, window),
        "mean_sm_clock_mhz": _mean(telemetry, "gpu_sm_clock_mhz", window),
        "mean_gpu_memory_clock_mhz": _mean(telemetry, "gpu_memory_clock_mhz", window),
        "slowed_share": _share_with(telemetry, SLOWED_BITS, window),
        "power_capped_share": _share_with(telemetry, POWER_CAP_BIT, window),
        "mean_power_w": energy_j / window.length_s if energy_j is not None else None,
        "energy_j_per_token": energy_j / tokens if energy_j is not None and tokens > 0 else None,
    }


def series(telemetry: pa.Table, name: str) -> tuple[Ints, Floats]:
    """Times and values of a column where it has any, in order of time."""
    if name not in telemetry.column_names:  # written by an older version
        return np.empty(0, np.int64), np.empty(0)
    times = np.asarray(telemetry["t_ns"].to_numpy(), np.int64)
    values = np.asarray(telemetry[name].cast("float64").to_numpy(), np.float64)
    known = np.isfinite(values)
    order = np.argsort(times[known], kind="stable")
    return times[known][order], values[known][order]


def _peak(telemetry: pa.Table, name: str) -> float | None:
    _, values = series(telemetry, name)
    return float(values.max()) if len(values) else None


def _mean(telemetry: pa.Table, name: str, window: Window) -> float | None:
    times, values = series(telemetry, name)
    inside = window.holds(times)
    return float(values[inside].mean()) if inside.any() else None


def _switches_per_s(telemetry: pa.Table, window: Window) -> float | None:
    """Between the first and the last sample inside; None where threads that ended took theirs."""
    total = 0.0
    for name in ("voluntary_switches", "involuntary_switches"):
        times, counts = series(telemetry, name)
        inside = window.holds(times)
        if inside.sum() < 2:
            return None
        grown = counts[inside][-1] - counts[inside][0]
        total += float(grown) / (float(times[inside][-1] - times[inside][0]) * 1e-9)
    return total if total >= 0 else None


def _share_with(telemetry: pa.Table, bits: int, window: Window) -> float | None:
    """Share of the samples inside in which NVML named one of these reasons."""
    times, reasons = series(telemetry, "gpu_throttle_reasons")
    inside = reasons[window.holds(times)].astype(np.int64)
    return float((inside & bits != 0).mean()) if len(inside) else None


def _energy_j(telemetry: pa.Table, window: Window) -> float | None:
    """From the device's own energy counter if it has one, else power integrated over time.

    None unless samples reach across the whole window: nothing is extrapolated.
    """
    edges = np.array([window.start_ns, window.end_ns])
    times, counter = series(telemetry, "gpu_energy_j")
    if _covers(times, window):
        return float(np.diff(np.interp(edges, times, counter))[0])
    times, power_w = series(telemetry, "gpu_power_w")
    if not _covers(times, window):
        return None
    grid = np.concatenate([edges[:1], times[window.holds(times)], edges[1:]])
    return float(np.trapezoid(np.interp(grid, times, power_w), grid * 1e-9))


def _covers(times: Ints, window: Window) -> bool:
    return len(times) > 1 and bool(times[0] <= window.start_ns and times[-1] >= window.end_ns)
