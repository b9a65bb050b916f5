"""How fast one replica of an engine serves, by how many requests it holds: measured, interpolated.

Taken from closed-loop cells. Beyond the knee, the load from which on throughput hardly grows, more
requests at once only wait longer, and where they wait is not the engine's secret: the simulation
queues them itself (see `capacity_simulation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    With n requests at work (n from 1 to `slots`) a prompt takes `prompt_s[n - 1]` of the engine's
    time, one prompt after the other, and each further token of an answer `token_s[n - 1]`, that of
    other requests' prompts included. Their sum over an answer is n divided by the measured rate of
    answers, so that the curve reproduces the throughput that was measured.
    """

    label: str
    group: Group
    output_tokens: float
    prompt_s: Floats  # (slots,)
    token_s: Floats  # (slots,)

    @property
    def slots(self) -> int:
        return len(self.prompt_s)

    @property
    def requests_per_s(self) -> float:
        """What a replica serves at the knee."""
        return self.slots / self.request_s(self.slots)

    def request_s(self, busy: int) -> float:
        """From send to last token, with so many requests at work and no prompt in front."""
        later = max(0.0, self.output_tokens - 1)
        return float(self.prompt_s[busy - 1] + later * self.token_s[busy - 1])


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
    prompts = {point.load: point.median for point in curve(group, label, "prompt_s")}
    answering = {point.load: point.median for point in curve(group, label, "answering_max")}
    rates = {load: flow / tokens for load, flow in flows.items() if flow > 0 and load in prompts}
    loads = sorted(rates)
    if not loads or loads[0] != 1 or bool(rows["is_null"].any()):
        return None
    best = max(rates[load] for load in loads)
    knee = next(load for load in loads if rates[load] >= KNEE * best)
    used = _by_work({load: answering[load] for load in loads if load <= knee})
    # prompts are computed one after the other, so none can take longer than answers are apart
    prompt_s = np.array([min(prompts[load], 1.0 / rates[load]) for load in used.values()])
    cycle_s = np.array([work / rates[load] for work, load in used.items()])
    token_s = np.maximum((cycle_s - prompt_s) / max(1.0, tokens - 1), 1e-9)
    at, works = np.arange(1, int(max(used)) + 1), list(used)
    return ServiceCurve(
        label, group, tokens, np.interp(at, works, prompt_s), np.interp(at, works, token_s)
    )


def _by_work(answering: Mapping[float, float]) -> Mapping[float, float]:
    """The lowest load for each number of requests at work: those that an engine leaves waiting for
    whole answers are not, and more of them tell nothing new.
    """
    used: dict[float, float] = {}
    for load, most in answering.items():
        used.setdefault(max(1.0, min(load, most)), load)
    return dict(sorted(used.items()))


def _answer_length(rows: pd.DataFrame) -> float:
    """Tokens of an answer, by its times: rates over a short window would be coarser."""
    later = (rows["e2e_s_p50"] - rows["ttft_s_p50"]) / rows["tpot_s_p50"]
    return 1.0 + float(later.median())
