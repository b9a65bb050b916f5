"""One job for several load workers: who does which requests, and how their ends become one.

Requests keep their numbers, conversations stay whole, and an open loop's requests keep their times,
so that the workers together do what one driver would have done. Knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from enginebench.drive import DriveDone, DriveJob
from enginebench.types import Request, RequestRecord

__all__ = ["Share", "as_one", "on_master_clock", "shares"]


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker does; its users are numbered from `first_user`."""

    job: DriveJob
    requests: tuple[Request, ...]
    first_user: int


def shares(job: DriveJob, requests: Sequence[Request], workers: int) -> list[Share]:
    """At most one for each worker; fewer where there are fewer users."""
    count = min(workers, job.load.users) if job.load.users is not None else workers
    return [_share(job, requests, k, count) for k in range(count)]


def _share(job: DriveJob, requests: Sequence[Request], k: int, count: int) -> Share:
    warm = job.budget.warmup_requests
    heads = [request for request in requests if request.follows is None]
    mine = {r.index for r in [*heads[:warm][k::count], *heads[warm:][k::count]]}
    taken: list[Request] = []
    for request in requests:
        if request.index in mine or request.follows in mine:
            mine.add(request.index)
            taken.append(request)
    budget = replace(
        job.budget,
        requests=None if job.budget.requests is None else len(range(k, job.budget.requests, count)),
        warmup_requests=len(range(k, warm, count)),
    )
    load, users = job.load, job.load.users
    if users is not None:
        load = replace(load, users=len(range(k, users, count)))
    first = sum(len(range(other, users or 0, count)) for other in range(k))
    return Share(msgspec.structs.replace(job, budget=budget, load=load), tuple(taken), first)


def on_master_clock(
    record: RequestRecord, ahead_ns: int, first_user: int, *, closed_loop: bool
) -> RequestRecord:
    """A worker's record by the master's clock, which that of the worker is `ahead_ns` of."""
    return replace(
        record,
        user=record.user + first_user if closed_loop else record.user,
        scheduled_ns=record.scheduled_ns - ahead_ns,
        sent_ns=record.sent_ns - ahead_ns,
        end_ns=record.end_ns - ahead_ns,
        chunk_ns=tuple(at - ahead_ns for at in record.chunk_ns),
    )


def as_one(done: Sequence[tuple[DriveDone, int]], *, closed_loop: bool) -> DriveDone:
    """The end of all: `done` with how far each worker's clock is ahead.

    Closed loop: the window in which the users of all were busy. Open loop: from the first answer
    to the last sending. Cost and lag are those of the worst: each is one timed thread.
    """
    starts = [d.measure_start_ns - ahead for d, ahead in done if d.measure_start_ns is not None]
    ends = [d.measure_end_ns - ahead for d, ahead in done if d.measure_end_ns is not None]
    whole = len(starts) == len(ends) == len(done)
    start = (max(starts) if closed_loop else min(starts)) if whole else None
    end = (min(ends) if closed_loop else max(ends)) if whole else None
    if start is not None and end is not None and end <= start:
        start = end = None
    lags = [d.loop_lag_s_p99 for d, _ in done if d.loop_lag_s_p99 is not None]
    return DriveDone(
        start,
        end,
        max(d.client_cpu_s for d, _ in done),
        max(d.max_loop_lag_s for d, _ in done),
        max(lags, default=None),
        "kernel" if all(d.stamped_by == "kernel" for d, _ in done) else "read",
        len(done),
    )
