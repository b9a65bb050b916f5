"""How much work was done: tokens and requests per second over the steady state.

The window is the driver's: all users busy with measured requests. Where there never was such a
window, the whole span of the measured requests stands in for it, and `window_is_steady` is 0. A
token counts when its chunk arrived inside the window; tokens of failed requests never count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from enginebench.results import CellStatus
from enginebench.types import MetricInfo
from enginebench_reports.measured import Bools, Floats, Ints, Measured

__all__ = ["COLUMNS", "Window", "throughput", "tokens_in"]

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "output_tokens_per_s",
        "tokens/s",
        "higher",
        "Generated tokens of successful requests that arrived inside the window, per second of it",
    ),
    MetricInfo(
        "prompt_tokens_per_s",
        "tokens/s",
        "higher",
        "Prompt tokens of requests whose first chunk arrived inside the window, per second of it",
    ),
    MetricInfo(
        "requests_per_s",
        "requests/s",
        "higher",
        "Successful requests that ended inside the window, per second of it",
    ),
    MetricInfo("window_s", "s", "neither", "Length of the window that rates are taken over"),
    MetricInfo(
        "window_is_steady",
        "0 or 1",
        "neither",
        "1: the window is the steady state, all users busy; 0: the whole span stands in",
    ),
    MetricInfo(
        "cached_prompt_share",
        "share",
        "neither",
        "Prompt tokens that the server took from its prefix cache, where it tells",
    ),
)


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the driver's clock."""

    start_ns: int
    end_ns: int
    is_steady: bool

    @classmethod
    def of(cls, status: CellStatus, measured: Measured) -> Self | None:
        """The steady state, else the span of the measured requests, else None."""
        start, end = status.measure_start_ns, status.measure_end_ns
        if start is not None and end is not None and end > start:
            return cls(start, end, is_steady=True)
        if len(measured) == 0 or measured.end_ns.max() <= measured.sent_ns.min():
            return None
        return cls(int(measured.sent_ns.min()), int(measured.end_ns.max()), is_steady=False)

    @property
    def length_s(self) -> float:
        return (self.end_ns - self.start_ns) * 1e-9

    def holds(self, times_ns: Ints) -> Bools:
        """Which of the times lie inside, both ends included."""
        return (times_ns >= self.start_ns) & (times_ns <= self.end_ns)


def throughput(measured: Measured, window: Window | None) -> Mapping[str, float | None]:
    """All of COLUMNS; rates are None without a window or without any successful request."""
    figures: dict[str, float | None] = dict.fromkeys(column.name for column in COLUMNS)
    figures["cached_prompt_share"] = _cached_share(measured)
    if window is None:
        return figures
    figures |= {"window_s": window.length_s, "window_is_steady": float(window.is_steady)}
    if len(measured) == 0:
        return figures
    started = measured.prompt_tokens[measured.answered & window.holds(measured.first_ns)]
    known = len(started) > 0 and not np.isnan(started).any()
    return figures | {
        "output_tokens_per_s": tokens_in(measured, window) / window.length_s,
        "prompt_tokens_per_s": float(started.sum()) / window.length_s if known else None,
        "requests_per_s": float(window.holds(measured.end_ns).sum()) / window.length_s,
    }


def tokens_in(measured: Measured, window: Window) -> float:
    """Tokens that arrived inside.

    Where a server counts only whole answers, that count is spread over the answer's chunks in
    proportion to what they seemed to hold, so that all of them add up to what the server said.
    """
    if len(measured.chunk_ns) == 0:
        return 0.0
    inside = window.holds(measured.chunk_ns)
    streamed = measured.streamed_tokens
    if (streamed == measured.tokens).all():
        return float(measured.chunk_tokens[inside].sum())
    arrived = measured.sums(measured.chunk_tokens * inside)
    scale: Floats = np.divide(
        measured.tokens, streamed, out=np.zeros(len(measured)), where=streamed > 0
    )
    return float((arrived * scale).sum())


def _cached_share(measured: Measured) -> float | None:
    known = ~np.isnan(measured.cached_tokens) & ~np.isnan(measured.prompt_tokens)
    total = float(measured.prompt_tokens[known].sum())
    return float(measured.cached_tokens[known].sum()) / total if total > 0 else None
