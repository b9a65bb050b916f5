import pytest

from enginebench.types import Budget, Request
from enginebench_workloads.schedule import Schedule, Window


def requests(count: int) -> list[Request]:
    return [Request(index, (1, 2), 4) for index in range(count)]


def drain(schedule: Schedule) -> list[int]:
    taken = []
    while (request := schedule.next_measured()) is not None:
        taken.append(request.index)
    return taken


def test_warmup_requests_come_first_and_are_not_measured_again() -> None:
    schedule = Schedule(requests(10), Budget(requests=3, warmup_requests=2))
    warm = [schedule.next_warmup(), schedule.next_warmup()]
    assert [request.index for request in warm if request] == [0, 1]
    assert schedule.next_warmup() is None
    schedule.start_measuring()
    assert drain(schedule) == [2, 3, 4]


def test_warmup_requests_nobody_took_are_skipped() -> None:
    schedule = Schedule(requests(10), Budget(requests=2, warmup_requests=5))
    schedule.start_measuring()
    assert drain(schedule) == [5, 6]


def test_a_spent_duration_still_grants_each_user_one_request() -> None:
    schedule = Schedule(requests(4), Budget(duration_s=0.0, warmup_requests=0))
    schedule.start_measuring()
    assert schedule.next_measured() is None
    first = schedule.next_measured(at_least_one=True)
    assert first is not None and first.index == 0


def test_stop_hands_out_nothing_more() -> None:
    schedule = Schedule(requests(4), Budget(requests=4, warmup_requests=1))
    schedule.start_measuring()
    schedule.stop()
    assert schedule.next_measured(at_least_one=True) is None
    assert schedule.next_warmup() is None


@pytest.mark.parametrize("users", [1, 3])
def test_the_window_needs_all_users_and_ends_with_the_first(users: int) -> None:
    window = Window(users)
    for _ in range(users - 1):
        window.user_started()
    assert window.bounds == (None, None)
    window.user_started()
    window.user_stopped()
    start, end = window.bounds
    assert start is not None and end is not None and start < end
    window.user_stopped()
    assert window.bounds == (start, end)


def test_a_window_that_ended_before_all_users_were_busy_is_none() -> None:
    window = Window(2)
    window.user_started()
    window.user_stopped()
    window.user_started()
    assert window.bounds == (None, None)


def test_turns_are_counted_and_end_with_the_budget() -> None:
    turn = Request(7, (1,), 4, follows=0)
    schedule = Schedule(requests(3), Budget(requests=2, warmup_requests=0), {0: turn})
    schedule.start_measuring()
    first = schedule.next_measured()
    assert first is not None and schedule.turn_after(first.index) is turn
    assert schedule.turn_after(1) is None
    assert schedule.take_turn()
    assert not schedule.take_turn() and schedule.next_measured() is None
