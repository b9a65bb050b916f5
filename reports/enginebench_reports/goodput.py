"""Goodput: the requests that met a service level objective, per second and as a share.

The objective is the Run's own, or the one that `bench report --slo` set in its place; without one
there is no goodput. What meets it is `enginebench.slo`'s rule, here for all requests at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from enginebench.slo import Slo
from enginebench.types import MetricInfo
from enginebench_reports.measured import Bools, Floats, Measured
from enginebench_reports.throughput import Window

__all__ = ["COLUMNS", "goodput", "met"]

NS = 1e9
COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "goodput_rps",
        "requests/s",
        "higher",
        "Requests that met the SLO and ended inside the window, per second of it",
    ),
    MetricInfo(
        "slo_met_share",
        "share",
        "higher",
        "Share of the measured requests that met the SLO; a failed request meets none",
    ),
)


def goodput(
    measured: Measured, window: Window | None, slo: Slo | None
) -> Mapping[str, float | None]:
    """All of COLUMNS."""
    figures: dict[str, float | None] = dict.fromkeys(column.name for column in COLUMNS)
    total = len(measured) + measured.failed
    if slo is None or total == 0:
        return figures
    good = met(measured, slo)
    figures["slo_met_share"] = float(good.sum()) / total
    if window is not None:
        ended = window.holds(measured.end_ns[good])
        figures["goodput_rps"] = float(ended.sum()) / window.length_s
    return figures


def met(measured: Measured, slo: Slo) -> Bools:
    """(n,) which of the successful requests met every bound, as `Slo.met_by` says one by one."""
    good = np.ones(len(measured), bool)
    found = _latencies_s(measured)
    for name, bound in slo.bounds_s.items():
        good &= found[name] <= bound
    return good


def _latencies_s(measured: Measured) -> Mapping[str, Floats]:
    answered = measured.answered
    later = measured.tokens - measured.first_tokens
    streaming_s: Floats = (measured.end_ns - measured.first_ns) / NS
    return {
        "ttft": np.where(answered, (measured.first_ns - measured.scheduled_ns) / NS, np.inf),
        "tpot": np.where(answered & (later > 0), streaming_s / np.maximum(later, 1), 0.0),
        "e2e": (measured.end_ns - measured.scheduled_ns) / NS,
    }
