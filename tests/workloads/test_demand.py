import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_cells import cell_of

from enginebench.types import Request
from enginebench_workloads.arrivals import ARRIVALS
from enginebench_workloads.cell_options import CellOptions
from enginebench_workloads.demand import LOAD_OPTIONS, due_times, ramped


@settings(deadline=None)
@given(
    st.sampled_from(ARRIVALS),
    st.floats(0.1, 200),
    st.one_of(st.none(), st.integers(1, 50)),
    st.one_of(st.none(), st.floats(0.1, 5)),
    st.integers(0, 3),
    st.integers(0, 2**40),
)
def test_an_open_loop_has_just_the_requests_of_its_budget(
    arrival: str,
    rate_rps: float,
    requests: int | None,
    duration_s: float | None,
    warmup: int,
    seed: int,
) -> None:
    cell = cell_of(
        "w",
        seed=seed,
        rate_rps=rate_rps,
        requests=requests,
        duration_s=duration_s,
        warmup=warmup,
        arrival=arrival,
    )
    due = due_times(cell, CellOptions.of(LOAD_OPTIONS, cell), 1)
    assert due[:warmup] == [None] * warmup
    times = [at for at in due[warmup:] if at is not None]
    assert len(times) == len(due) - warmup >= 1
    assert times[0] == 0 and times == sorted(times)
    assert requests is None or len(times) <= requests
    assert times[-1] < (duration_s or (60.0 if requests is None else float("inf")))
    if arrival == "constant" and duration_s and requests is None:
        assert len(times) == pytest.approx(rate_rps * duration_s, abs=1.01)


def test_a_closed_loop_has_enough_for_the_fastest_engine() -> None:
    timed = cell_of("w", users=4, requests=None, duration_s=2.0, warmup=1)
    due = due_times(timed, CellOptions.of(LOAD_OPTIONS, timed), 16)
    assert len(due) >= 1 + 4 * 2.0 / (16 * 0.0015) and set(due) == {None}
    counted = cell_of("w", users=50, requests=20)
    assert len(due_times(counted, CellOptions.of(LOAD_OPTIONS, counted), 16)) == 52


def test_a_rate_that_rises() -> None:
    cell = cell_of(
        "w",
        rate_rps=10.0,
        requests=None,
        duration_s=20.0,
        warmup=0,
        arrival="constant",
        ramp_s=10.0,
    )
    times = [at or 0.0 for at in due_times(cell, CellOptions.of(LOAD_OPTIONS, cell), 1)]
    assert times[0] == 0 and times == sorted(times)
    halves = [sum(low <= at < low + 5 for at in times) for low in (0, 5, 10, 15)]
    assert halves == pytest.approx([12.5, 37.5, 50, 50], abs=1.5)


def test_users_that_join_one_by_one() -> None:
    cell = cell_of("w", users=4, ramp_s=8.0, warmup=2)
    made = [Request(index, "x", 1) for index in range(8)]
    made[3] = Request(3, "x", 1, follows=2, think_s=0.5)
    found = ramped(made, cell, CellOptions.of(LOAD_OPTIONS, cell))
    assert [request.think_s for request in found] == [0, 0, 0, 0.5, 2, 4, 6, 0]
    calm = cell_of("w", users=4)
    assert ramped(made, calm, CellOptions.of(LOAD_OPTIONS, calm)) is made
