from itertools import chain

import pytest

from enginebench.drive import DriveDone, DriveJob
from enginebench.types import Budget, Load, Request, RequestRecord
from enginebench_workloads.shares import as_one, on_master_clock, shares


def job(load: Load, **budget: int) -> DriveJob:
    return DriveJob("http://x", "m", load, Budget(**budget), "q", "r")


@pytest.mark.parametrize(("users", "workers", "count"), [(5, 2, 2), (2, 4, 2), (16, 3, 3)])
def test_users_requests_and_warm_ups_are_divided(users: int, workers: int, count: int) -> None:
    requests = [Request(index, (1,), 4) for index in range(3 + 40)]
    made = shares(job(Load(users=users), requests=40, warmup_requests=3), requests, workers)
    assert len(made) == count
    taken = sorted(request.index for share in made for request in share.requests)
    assert taken == list(range(43))
    assert sum(share.job.budget.requests or 0 for share in made) == 40
    assert sum(share.job.budget.warmup_requests for share in made) == 3
    numbers = [range(s.first_user, s.first_user + (s.job.load.users or 0)) for s in made]
    assert sorted(chain(*numbers)) == list(range(users))
    for share in made:
        warm = [r.index < 3 for r in share.requests]
        assert warm == sorted(warm, reverse=True)
        assert sum(warm) == share.job.budget.warmup_requests


def test_conversations_stay_whole_and_schedules_stay_as_they_are() -> None:
    requests = [
        Request(i, (1,), 4, None if i % 3 else i * 0.1, follows=i - 1 if i % 3 else None)
        for i in range(12)
    ]
    first, second = shares(job(Load(rate_rps=5.0), warmup_requests=0), requests, 2)
    assert [r.index for r in first.requests] == [0, 1, 2, 6, 7, 8]
    assert [r.index for r in second.requests] == [3, 4, 5, 9, 10, 11]
    assert second.requests[0] == requests[3] and first.job.load == Load(rate_rps=5.0)


def test_rows_are_by_the_masters_clock() -> None:
    made = RequestRecord(7, 1, "measure", 1000, 1100, 1900, (1500, 1700), (1, 1), "usage")
    ours = on_master_clock(made, 900, 4, closed_loop=True)
    assert (ours.scheduled_ns, ours.sent_ns, ours.end_ns) == (100, 200, 1000)
    assert ours.chunk_ns == (600, 800) and ours.user == 5
    assert on_master_clock(made, 0, 4, closed_loop=False) == made


def test_the_end_of_all() -> None:
    a = (DriveDone(100, 900, 1.0, 0.1, 0.01, "kernel"), 0)
    b = (DriveDone(1250, 1800, 2.0, 0.05, None, "read"), 1000)
    closed = as_one([a, b], closed_loop=True)
    assert (closed.measure_start_ns, closed.measure_end_ns) == (250, 800)
    assert (closed.client_cpu_s, closed.max_loop_lag_s, closed.loop_lag_s_p99) == (2.0, 0.1, 0.01)
    assert (closed.stamped_by, closed.workers) == ("read", 2)
    opened = as_one([a, b], closed_loop=False)
    assert (opened.measure_start_ns, opened.measure_end_ns) == (100, 900)
    never = (DriveDone(None, None, 1.0, 0.1), 0)
    assert as_one([a, never], closed_loop=True).measure_start_ns is None
