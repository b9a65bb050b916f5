"""How many requests a cell needs and when they are due, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from typing import cast

from enginebench.types import Cell, Option, Request
from enginebench_workloads.arrivals import ARRIVALS, Arrival, arrival_times
from enginebench_workloads.cell_options import CellOptions

__all__ = ["LOAD_OPTIONS", "closed_loop_count", "conversation_starts", "due_times", "ramped"]

ARRIVAL_OPTION = Option(
    "arrival", str, "poisson", "open loop: how requests arrive", choices=ARRIVALS
)
RAMP_OPTION = Option(
    "ramp_s",
    float,
    0.0,
    "seconds over which users join one by one, or over which the rate rises from 0",
)
LOAD_OPTIONS = (ARRIVAL_OPTION, RAMP_OPTION)
FASTEST_TOKEN_S = 0.001
"""No engine is expected to be faster: bounds how many requests a timed closed loop can need."""
MOST_REQUESTS = 8192
DEFAULT_DURATION_S = 60.0
ARRIVALS_STREAM = 1
"""Arrivals are drawn apart from prompts, so that one does not change the other."""


def due_times(cell: Cell, chosen: CellOptions, answer_tokens: float) -> list[float | None]:
    """One entry for each request to write, warm-up ones first: when it is due, None for at once.

    Exact for an open loop; for a closed loop an upper bound, for answers of about `answer_tokens`.
    """
    import numpy as np

    warmup = cell.budget.warmup_requests
    if cell.load.rate_rps is None:
        return [None] * (warmup + closed_loop_count(cell, answer_tokens))
    rng = np.random.default_rng([cell.seed, ARRIVALS_STREAM])
    times = arrival_times(rng, cell.load.rate_rps, cast(Arrival, chosen.text("arrival")))
    times = _risen(times, chosen.number("ramp_s", least=0) or 0.0)
    duration_s, requests = cell.budget.duration_s, cell.budget.requests
    if duration_s is None and requests is None:
        duration_s = DEFAULT_DURATION_S
    if duration_s is not None:
        end_s = duration_s
        times = takewhile(lambda due_s: due_s < end_s, times)
    return [*[None] * warmup, *islice(times, requests)]


def ramped(requests: Sequence[Request], cell: Cell, chosen: CellOptions) -> Sequence[Request]:
    """In a closed loop, users join evenly over the ramp: with their first measured request."""
    ramp_s, users = chosen.number("ramp_s", least=0), cell.load.users
    if not ramp_s or users is None:
        return requests
    firsts = [r.index for r in requests if r.follows is None][cell.budget.warmup_requests :]
    joins_s = {index: ramp_s * place / users for place, index in enumerate(firsts[:users])}
    return [
        replace(request, think_s=joins_s[request.index]) if request.index in joins_s else request
        for request in requests
    ]


def _risen(times: Iterator[float], ramp_s: float) -> Iterator[float]:
    """Arrivals of a rate that rises evenly from 0, from those of the rate that it reaches."""
    for at_s in times:
        yield math.sqrt(2 * at_s * ramp_s) if at_s < ramp_s / 2 else at_s + ramp_s / 2


def conversation_starts(
    cell: Cell, chosen: CellOptions, answer_tokens: float, mean_turns: float
) -> list[float | None]:
    """As `due_times`, of conversations whose turns come at the cell's rate and fill its budget.

    Some more than are needed on average: it is the budget that ends a cell.
    """
    requests, rate_rps = cell.budget.requests, cell.load.rate_rps
    most = None if requests is None else math.ceil(2 * requests / mean_turns)
    load = cell.load if rate_rps is None else replace(cell.load, rate_rps=rate_rps / mean_turns)
    users = cell.load.users or 0
    budget = replace(cell.budget, requests=None if most is None else most + 2 * users)
    return due_times(replace(cell, load=load, budget=budget), chosen, answer_tokens * mean_turns)


def closed_loop_count(cell: Cell, answer_tokens: float) -> int:
    """Measured requests to write: exact where the budget says, else an upper bound."""
    users = cell.load.users or 1
    if cell.budget.requests is not None:
        return max(cell.budget.requests, users)
    duration_s = cell.budget.duration_s or DEFAULT_DURATION_S
    per_user = math.ceil(duration_s / (FASTEST_TOKEN_S * (answer_tokens + 5)))
    return min(users * max(per_user, 2), max(MOST_REQUESTS, 16 * users))
