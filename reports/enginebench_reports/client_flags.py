"""Whether the client was in the way: the load driver's CPU, its lateness, its queue.

What counts as too much stands in the constants below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from enginebench.results import CellResult
from enginebench.types import Flag
from enginebench_reports.latency import Gaps
from enginebench_reports.measured import Measured

__all__ = ["client_flags"]

QUEUE_SHARE_OF_TTFT = 0.05
QUEUE_FLOOR_S = 0.001
BUSY_CLIENT_PERCENT = 80.0
SATURATED_CLIENT_PERCENT = 95.0
LAG_FLOOR_S = 0.001
LATE_CLIENT_SHARE = 0.1
SATURATED_CLIENT_SHARE = 0.5
READ_TOGETHER_SHARE = 0.01

Figures = Mapping[str, float | None]


def client_flags(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    """The flags that doubt the client, not the engine."""
    yield from _client_queue(figures)
    yield from _client_cpu(cell, figures)
    yield from _client_lag(cell, figures)


def _client_queue(figures: Figures) -> Iterator[Flag]:
    delay = figures.get("client_queue_s_p99") or figures.get("client_queue_s_max")
    ttft = figures.get("ttft_s_p50")
    if delay and ttft and delay > max(QUEUE_FLOOR_S, QUEUE_SHARE_OF_TTFT * ttft):
        yield Flag(
            "caution",
            "client_queueing",
            f"requests were sent up to {delay * 1e3:.1f} ms late by the client itself: compare "
            "TTFT from send",
        )


def _client_cpu(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    """A driver is one thread: what it measures near 100% of a core is itself."""
    busy = (figures.get("client_cpu_percent") or 0.0) / cell.run.settings.load_workers
    if busy >= SATURATED_CLIENT_PERCENT:
        yield Flag(
            "invalid",
            "client_saturated",
            f"the load driver used {busy:.0f}% of its one core: these figures are its own",
        )
    elif busy > BUSY_CLIENT_PERCENT:
        yield Flag(
            "caution",
            "busy_client",
            f"the load driver used {busy:.0f}% of a core and may have been the bottleneck",
        )


def _client_lag(cell: CellResult, figures: Figures) -> Iterator[Flag]:
    """Late for its own timers, the driver was as late for what it stamped itself, and for sending.

    Arrivals that the kernel stamped are as they were; what is late then is a user's next request.
    """
    lag_s = cell.status.loop_lag_s_p99
    if lag_s is None or lag_s <= LAG_FLOOR_S:
        return
    in_kernel = cell.status.stamped_by == "kernel"
    names = ("e2e_s_p50",) if in_kernel else ("ttft_s_p50", "chunk_gap_s_p50")
    shortest_s = min((value for name in names if (value := figures.get(name))), default=None)
    if shortest_s is not None and lag_s / shortest_s > LATE_CLIENT_SHARE:
        saturated = lag_s / shortest_s > SATURATED_CLIENT_SHARE
        bent = (
            "users asked later, and less, than was planned"
            if in_kernel
            else "the tails of TTFT and ITL are partly its own"
        )
        yield Flag(
            "invalid" if saturated else "caution",
            "client_lag" if saturated else "client_late",
            f"the load driver was up to {lag_s * 1e3:.1f} ms (p99) late for its own timers, against"
            f" {'requests' if in_kernel else 'latencies'} of {shortest_s * 1e3:.1f} ms: it or its"
            f" machine was too busy, and {bent}",
        )
    if in_kernel:
        yield from _read_together(cell, figures, lag_s)


def _read_together(cell: CellResult, figures: Figures, lag_s: float) -> Iterator[Flag]:
    """Chunks that a late driver found together have the stamp of the last."""
    import numpy as np

    gap_s = figures.get("chunk_gap_s_p50")
    if gap_s is None or lag_s <= gap_s * SATURATED_CLIENT_SHARE:
        return
    measured = Measured.of(cell.records)
    gaps_s = Gaps.between(measured, np.ones(len(measured.chunk_ns), bool)).seconds
    together = float(np.mean(gaps_s == 0))
    if together > READ_TOGETHER_SHARE:
        yield Flag(
            "caution",
            "chunks_together",
            f"{together:.0%} of the chunks came together with the next: the load driver was up to"
            f" {lag_s * 1e3:.1f} ms (p99) late to read, so the tail of ITL may be its own",
        )
