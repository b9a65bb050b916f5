"""How fast one replica of an engine serves, by how many requests it holds: measured, interpolated.

Taken from closed-loop cells. Beyond the knee, the load from which on throughput hardly grows, more
requests at once only wait longer, and where they wait is not the engine's secret: the simulation
queues them itself (see `capacity_simulation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginebench_reports.groups import Group, curve
from enginebench_reports.measured import Floats

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ServiceCurve", "service_curves"]

KNEE = 0.9
"""Of the highest throughput: a lower load that reaches this share is the knee."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceCurve:
    """One engine with one model on one piece of hardware, at the lengths that were measured.

    With n requests at work (n from 1 to `slots`) a request needs `prefill_s[n - 1]` until its first
    token and `token_s[n - 1]` for each of the others. Their sum over an answer is n divided by the
    measured rate of answers, so that the curve reproduces the throughput that was measured.
    """

    label: str
    group: Group
    output_tokens: float
    prefill_s: Floats  # (slots,)
    token_s: Floats  # (slots,)

    @property
    def slots(self) -> int:
        return len(self.prefill_s)

    @property
    def requests_per_s(self) -> float:
        """What a replica serves at the knee."""
        return self.slots / self.request_s(self.slots)

    def request_s(self, busy: int) -> float:
        """From send to last token, with so many requests at work."""
        later = max(0.0, self.output_tokens - 1)
        return float(self.prefill_s[busy - 1] + later * self.token_s[busy - 1])


def service_curves(groups: Sequence[Group]) -> Sequence[ServiceCurve]:
    """A curve for each engine of each closed-loop group that was measured with one request."""
    found = []
    for group in groups:
        if group.loop == "closed":
            found += [made for label in group.labels if (made := _curve(group, label)) is not None]
    return found


def _curve(group: Group, label: str) -> ServiceCurve | None:
    rows = group.frame[group.frame["label"] == label]
    tokens = _answer_length(rows)
    flows = {point.load: point.median for point in curve(group, label, "output_tokens_per_s")}
    paces = {point.load: point.median for point in curve(group, label, "tpot_s_p50")}
    rates = {load: flow / tokens for load, flow in flows.items() if flow > 0 and load in paces}
    loads = sorted(rates)
    if not loads or loads[0] != 1 or bool(rows["is_null"].any()):
        return None
    best = max(rates[load] for load in loads)
    knee = next(load for load in loads if rates[load] >= KNEE * best)
    used = [load for load in loads if load <= knee]
    token_s = np.array([paces[load] for load in used])
    cycle_s = np.array([load / rates[load] for load in used])
    prefill_s = np.maximum(cycle_s - max(0.0, tokens - 1) * token_s, 1e-6)
    at = np.arange(1, int(knee) + 1)
    return ServiceCurve(
        label, group, tokens, np.interp(at, used, prefill_s), np.interp(at, used, token_s)
    )


def _answer_length(rows: pd.DataFrame) -> float:
    """Tokens of an answer, by its times: rates over a short window would be coarser."""
    later = (rows["e2e_s_p50"] - rows["ttft_s_p50"]) / rows["tpot_s_p50"]
    return 1.0 + float(later.median())
