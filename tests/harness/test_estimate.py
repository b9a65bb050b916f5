"""Time left: from what finished cells took, and honest where nothing is known."""

from __future__ import annotations

import pytest

from enginebench.estimate import Estimate, as_clock
from enginebench.types import Budget, Cell, EngineSpec, Hardware, Load, Plan, WorkloadSpec


def plan_of(*kinds: tuple[str, int], budget: Budget) -> Plan:
    cells = tuple(
        Cell(
            index,
            EngineSpec(engine, "m", Hardware(1)),
            WorkloadSpec("fixed"),
            Load(users=users),
            budget,
            0,
            0,
            str(index),
        )
        for index, (engine, users) in enumerate(kinds)
    )
    return Plan("p", 0, cells, {})


def test_nothing_known_is_the_budget_or_none() -> None:
    timed = plan_of(("a", 1), ("b", 1), budget=Budget(None, 10.0))
    assert Estimate(timed).seconds_left(None, 0.0) == 20.0
    assert Estimate(timed).seconds_left(timed.cells[0], 4.0) == 16.0
    counted = plan_of(("a", 1), budget=Budget(5, None))
    assert Estimate(counted).seconds_left(None, 0.0) is None


def test_the_nearest_relative_counts() -> None:
    kinds = [("a", 1), ("b", 1), ("a", 16), ("b", 16), ("a", 1), ("b", 1), ("c", 1)]
    plan = plan_of(*kinds, budget=Budget(None, 99.0))
    estimate = Estimate(plan)
    estimate.finished(plan.cells[0], 10.0)
    assert estimate.seconds_left(None, 0.0) == 60.0
    estimate.finished(plan.cells[1], 20.0)
    # a16 as a: 10, b16 as b: 20, a1: 10, b1: 20, c as the mean: 15
    assert estimate.seconds_left(None, 0.0) == 75.0
    estimate.finished(plan.cells[2], 30.0)
    # b16: 20, a1 as a1: 10, b1: 20, c as the mean of all: 20
    assert estimate.seconds_left(None, 0.0) == 70.0


def test_a_cell_over_its_time_counts_nothing_and_skipped_ones_are_gone() -> None:
    plan = plan_of(("a", 1), ("a", 1), ("a", 1), budget=Budget(None, 10.0))
    estimate = Estimate(plan)
    estimate.skip(plan.cells[0])
    assert estimate.seconds_left(plan.cells[1], 50.0) == 10.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.2, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (3723, "1:02:03")],
)
def test_as_clock(seconds: float | None, text: str) -> None:
    assert as_clock(seconds) == text
