"""Searches against simulated engines whose capacity is known."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from simulated import cell, data, failed, record, save

from enginebench.results import CellResult
from enginebench.schemas import records_table
from enginebench.search import Found, More
from enginebench.slo import Slo
from enginebench.store import CellData
from enginebench.types import Cell, Load, RequestRecord, Search
from enginebench_reports.load_search import next_load, share_met
from enginebench_reports.measured import Measured
from enginebench_reports.precision_search import next_round, relative_half_width

SLO = Slo(ttft_s=0.5)


def queue(load: Load, capacity_rps: float, seed: int) -> CellData:
    """One after the other, in the order in which they come; a closed loop divides the engine."""
    rng, free_s, due_s, made = random.Random(seed), 0.0, 0.0, list[RequestRecord]()
    service_s = 1 / capacity_rps * (load.users or 1)
    for index in range(200):
        start_s = max(due_s, free_s) if load.rate_rps else due_s
        free_s = start_s + service_s
        first_ms = 1e3 * (start_s + service_s * rng.uniform(0.8, 1.0))
        times = (first_ms, max(first_ms, free_s * 1e3))
        made.append(record(index, scheduled_ms=due_s * 1e3, chunks_ms=times))
        due_s += rng.expovariate(load.rate_rps) if load.rate_rps else service_s
    return data(made)


def seek(folder: Path, search: Search, capacity_rps: float) -> tuple[Found, list[Load]]:
    """Carry the search out."""
    done: list[tuple[Cell, CellData]] = []
    results: list[CellResult] = []
    while isinstance(step := next_load(search, results, 0.0), More):
        ((like, load),) = step.cells
        index = len(done)
        assert index < 40
        made = replace(like, index=index, load=load, id=f"{index:03d}", search=search.id)
        done.append((made, queue(load, capacity_rps, index)))
        results = list(save(folder / str(index), done).with_slo(SLO))
    return step, [made.load for made, _ in done]


def wanted(goal: str, first: Cell) -> Search:
    share = 0.95 if goal == "saturate" else 0.9
    return Search("s", goal, 600.0, share, first)  # type: ignore[arg-type]


@pytest.mark.parametrize(("first_rps", "capacity_rps"), [(1.0, 7.0), (64.0, 7.0)])
def test_the_knee_lies_where_the_engine_no_longer_keeps_up(
    tmp_path: Path, first_rps: float, capacity_rps: float
) -> None:
    search = wanted("saturate", cell(0, "paged", 0, rate_rps=first_rps))
    found, loads = seek(tmp_path, search, capacity_rps)
    assert loads[0] == Load(rate_rps=first_rps) and found.settled
    assert found.held is not None and found.failed is not None
    held, missed = found.held.rate_rps or 0, found.failed.rate_rps or 0
    assert 0.85 * capacity_rps < held < missed <= held * 1.11 and missed < 1.25 * capacity_rps
    assert f"keeps up with {held:g} requests/s, no more at {missed:g}" in found.sentence


def test_the_most_users_that_an_slo_allows(tmp_path: Path) -> None:
    """With n users a request takes n / 20 s, of which the first token needs nine tenths."""
    found, loads = seek(tmp_path, wanted("slo", cell(0, "paged", 1)), 20.0)
    assert found.settled and found.held is not None and found.failed is not None
    assert found.failed.users == (found.held.users or 0) + 1 and 9 <= (found.held.users or 0) <= 11
    assert [load.users for load in loads[:5]] == [1, 2, 4, 8, 16]
    assert "meets the SLO (90%) at" in found.sentence


def test_an_slo_that_nothing_meets(tmp_path: Path) -> None:
    found, _ = seek(tmp_path, wanted("slo", cell(0, "paged", 4)), 1.0)
    assert found.settled and found.held is None and found.failed == Load(users=1)
    assert "no load that was tried" in found.sentence


def test_a_failed_cell_is_a_load_that_failed_and_a_spent_budget_ends_it(tmp_path: Path) -> None:
    first = replace(cell(0, "paged", 0, rate_rps=8.0), search="s")
    search = wanted("saturate", first)
    results = list(save(tmp_path / "run", [(first, failed())]))
    step = next_load(search, results, 0.0)
    assert isinstance(step, More) and step.cells == ((first, Load(rate_rps=4.0)),)
    ended = next_load(search, results, 601.0)
    assert isinstance(ended, Found) and not ended.settled
    assert "budget of 600 s was spent" in ended.sentence


def slow_ones(slow: list[int]) -> Measured:
    made = [
        record(i, scheduled_ms=1000 * i, chunks_ms=(1000 * i + (900 if i in slow else 100),))
        for i in range(100)
    ]
    return Measured.of(records_table(made))


def test_a_share_is_less_certain_where_bad_requests_come_together() -> None:
    scattered, together = list(range(0, 100, 20)), [40, 41, 42, 43, 44]
    apart, clumped = (share_met([slow_ones(bad)], SLO) for bad in (scattered, together))
    assert apart.value == clumped.value == 0.95
    assert clumped.low < apart.low < 0.95 < apart.high
    assert apart.against(0.8) is True and apart.against(0.995) is False
    assert apart.against(0.94) is None
    assert share_met([slow_ones([])] * 3, SLO).low > 0.98


# ---------------------------------------------------------------- precision


def paced(tokens_per_s: float) -> CellData:
    times = [[1e3 * (i + k / tokens_per_s) for k in range(50)] for i in range(3)]
    made = [record(i, scheduled_ms=t[0], chunks_ms=t) for i, t in enumerate(times)]
    span = {"measure_start_ns": 0, "measure_end_ns": int(1e9 * (2 + 50 / tokens_per_s))}
    return data(made, **span)


def rounds(folder: Path, paged: list[float], quant: list[float]) -> list[CellResult]:
    pairs = []
    for repeat, speeds in enumerate(zip(paged, quant, strict=True)):
        for engine, speed in zip(("paged", "quant"), speeds, strict=True):
            made = cell(len(pairs), engine, 1, repeat=repeat)
            pairs.append((made, paced(speed)))
    return list(save(folder, pairs))


PRECISION = Search("precision", "precision", 600.0, 0.05)


def test_everything_is_repeated_until_all_is_known(tmp_path: Path) -> None:
    few = rounds(tmp_path / "few", [60.0] * 2, [100.0] * 2)
    step = next_round(PRECISION, few, 0.0)
    assert isinstance(step, More)
    assert [like.spec.engine for like, _ in step.cells] == ["paged", "quant"]
    wide = rounds(tmp_path / "wide", [60.0] * 3, [60.0, 100.0, 80.0])
    step = next_round(PRECISION, wide, 0.0)
    assert isinstance(step, More)
    assert [like.spec.engine for like, _ in step.cells] == ["quant", "paged"]  # they take turns
    narrow = next_round(PRECISION, rounds(tmp_path / "narrow", [60.0] * 3, [80.0] * 3), 0.0)
    assert isinstance(narrow, Found) and narrow.settled and "after 3 repeats" in narrow.sentence
    spent = next_round(PRECISION, wide, 600.0)
    assert isinstance(spent, Found) and not spent.settled
    assert "quant at c1" in spent.sentence and "not to 5.0%" in spent.sentence


def test_the_interval_is_students() -> None:
    assert relative_half_width([1.0, 2.0]) == math.inf
    assert relative_half_width([9.0, 10.0, 11.0]) == pytest.approx(
        4.3027 / math.sqrt(3) / 10, rel=1e-3
    )
