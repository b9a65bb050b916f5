import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_cells import cell_of

from enginebench_workloads.arrivals import ARRIVALS
from enginebench_workloads.cell_options import CellOptions
from enginebench_workloads.demand import ARRIVAL_OPTION, due_times


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
    due = due_times(cell, CellOptions.of([ARRIVAL_OPTION], cell), 1)
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
    due = due_times(timed, CellOptions.of([ARRIVAL_OPTION], timed), 16)
    assert len(due) >= 1 + 4 * 2.0 / (16 * 0.0015) and set(due) == {None}
    counted = cell_of("w", users=50, requests=20)
    assert len(due_times(counted, CellOptions.of([ARRIVAL_OPTION], counted), 16)) == 52
