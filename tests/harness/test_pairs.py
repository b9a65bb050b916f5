"""Pairs: their order, when the judge is asked, what ends them, how they go on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.gate import Judgement, LooksTaken, Verdict
from enginebench.pairs import LOOKS, MOST_PAIRS, PLANNED_LOOKS, Arms, PairsOutcome, measure_pairs
from enginebench.portion import Portion
from enginebench.results import CellStatus
from enginebench.run_folder import CellData, save_run
from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    Plan,
    WorkloadSpec,
)

CELL = Cell(
    0,
    EngineSpec("echo", "tiny", Hardware(cpu_threads=1)),
    WorkloadSpec("fixed"),
    Load(users=1),
    Budget(requests=1),
    repeat=0,
    seed=0,
    id="c1",
)
PORTION = Portion(Plan("check", 0, (CELL,), {"tiny": ModelInfo("tiny", "synthetic")}), {})


@dataclass
class Bench:
    """Two arms that note when they were asked, a clock that goes on `cost_s` with each cell."""

    cost_s: float = 1.0
    writes: bool = False
    killed_at: int | None = None
    fails_at: int | None = None
    now_s: float = 0.0
    measured: list[str] = field(default_factory=list)
    looks: list[LooksTaken] = field(default_factory=list)

    def measure(self, portion: Portion, folder: Path) -> bool:
        assert not folder.exists()
        self.now_s += self.cost_s
        if len(self.measured) + 1 == self.killed_at:
            save_run(folder, portion.plan, {})
            raise KeyboardInterrupt
        if self.writes:
            save_run(folder, portion.plan, {CELL.id: CellData(CellStatus("ok"))})
        self.measured.append(f"{folder.parent.name}/{folder.name}")
        return len(self.measured) != self.fails_at

    def judge(self, verdicts: Callable[[int], Verdict]) -> Callable[[LooksTaken], Judgement]:
        def judged(looks: LooksTaken) -> Judgement:
            self.looks.append(looks)
            return cast(Judgement, SimpleNamespace(verdict=verdicts(looks.pairs[-1])))

        return judged

    def run(
        self,
        folder: Path,
        verdicts: Callable[[int], Verdict] = lambda pairs: "inconclusive",
        *,
        budget_s: float = 1e9,
        spent_s: float = 0.0,
        cells: int = 1,
    ) -> PairsOutcome:
        return measure_pairs(
            [[PORTION] * cells] * MOST_PAIRS,
            Arms(self, self),
            folder,
            self.judge(verdicts),
            budget_s=budget_s,
            spent_s=spent_s,
            clock=lambda: self.now_s,
        )


def settled_at(pairs: int, verdict: Verdict = "pass") -> Callable[[int], Verdict]:
    return lambda seen: verdict if seen >= pairs else "inconclusive"


def test_arms_take_turns_and_so_does_who_comes_first(tmp_path: Path) -> None:
    bench = Bench()
    bench.run(tmp_path / "check", settled_at(4), cells=2)
    assert bench.measured[:8] == [
        "baseline/000-00",
        "current/000-00",
        "baseline/000-01",
        "current/000-01",
        "current/001-00",
        "baseline/001-00",
        "current/001-01",
        "baseline/001-01",
    ]
    assert len(set(bench.measured)) == len(bench.measured) == 2 * 2 * 4


@pytest.mark.parametrize("verdict", ["pass", "regression", "invalid"])
def test_it_stops_at_the_first_look_that_settles_it(tmp_path: Path, verdict: Verdict) -> None:
    bench = Bench()
    outcome = bench.run(tmp_path / "check", settled_at(7, verdict))
    assert (outcome.judgement.verdict, outcome.pairs) == (verdict, 10)
    assert [looks.pairs for looks in bench.looks] == [(4,), (4, 6), (4, 6, 10)]


def test_the_judge_knows_how_many_looks_were_planned(tmp_path: Path) -> None:
    bench = Bench()
    outcome = bench.run(tmp_path / "check")
    assert (outcome.pairs, outcome.judgement.verdict) == (MOST_PAIRS, "inconclusive")
    assert bench.looks[-1] == LooksTaken(LOOKS, PLANNED_LOOKS)


def test_when_the_budget_ends_there_is_one_last_look(tmp_path: Path) -> None:
    bench = Bench(cost_s=1)
    outcome = bench.run(tmp_path / "check", budget_s=11)
    assert (outcome.pairs, outcome.elapsed_s) == (5, 10)
    assert bench.looks[-1].pairs == (4, 5)


def test_the_first_pair_is_measured_whatever_the_budget(tmp_path: Path) -> None:
    outcome = Bench(cost_s=100).run(tmp_path / "check", budget_s=1)
    assert (outcome.pairs, outcome.judgement.verdict) == (1, "inconclusive")


def test_a_failed_cell_ends_it_after_its_pair(tmp_path: Path) -> None:
    bench = Bench(fails_at=3)
    outcome = bench.run(tmp_path / "check")
    assert outcome.pairs == 2
    assert len(bench.measured) == 4


@given(budget_s=st.floats(0, 300), cost_s=st.floats(0.1, 10), settles=st.integers(1, 60))
def test_budget_and_looks_are_kept(
    tmp_path_factory: pytest.TempPathFactory, budget_s: float, cost_s: float, settles: int
) -> None:
    bench = Bench(cost_s=cost_s)
    outcome = bench.run(
        tmp_path_factory.mktemp("pairs") / "check", settled_at(settles), budget_s=budget_s
    )
    assert outcome.elapsed_s <= budget_s + 1e-9 or outcome.pairs == 1
    taken = bench.looks[-1]
    assert taken.pairs == tuple(sorted(set(taken.pairs)))
    assert taken.pairs[-1] == outcome.pairs
    assert set(taken.pairs[:-1]) <= set(LOOKS)
    assert len(taken.pairs) <= taken.planned


@pytest.mark.parametrize("killed_at", [2, 9])
def test_a_kill_costs_no_more_than_what_was_being_measured(tmp_path: Path, killed_at: int) -> None:
    killed = Bench(writes=True, killed_at=killed_at)
    with pytest.raises(KeyboardInterrupt):
        killed.run(tmp_path, settled_at(6), cells=2)
    going_on = Bench(writes=True)
    outcome = going_on.run(tmp_path, settled_at(6), cells=2)
    assert outcome.pairs == 6
    whole = (killed_at - 1) // 2
    assert len(going_on.measured) == 2 * (2 * 6 - whole)
    assert {*killed.measured[: 2 * whole], *going_on.measured} == {
        f"{arm}/{pair:03d}-{place:02d}"
        for arm in ("baseline", "current")
        for pair in range(6)
        for place in range(2)
    }
    assert going_on.looks[-1].pairs == (4, 6)


def test_after_a_kill_the_looks_taken_before_still_count(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Bench(writes=True, killed_at=13).run(tmp_path)
    bench = Bench(writes=True)
    bench.run(tmp_path, settled_at(10))
    assert [looks.pairs for looks in bench.looks] == [(4, 6), (4, 6, 10)]


def test_what_was_spent_before_a_kill_is_spent(tmp_path: Path) -> None:
    bench = Bench(cost_s=1)
    outcome = bench.run(tmp_path, budget_s=11, spent_s=6)
    assert (outcome.pairs, outcome.elapsed_s) == (2, 10)


def test_every_pair_is_told(tmp_path: Path) -> None:
    bench, told = Bench(), []

    def tell(pairs: int, elapsed_s: float, judgement: Judgement | None) -> None:
        told.append((pairs, elapsed_s, judgement is not None))

    measure_pairs(
        [[PORTION]] * MOST_PAIRS,
        Arms(bench, bench),
        tmp_path / "check",
        bench.judge(settled_at(4)),
        budget_s=100,
        on_pair=tell,
        clock=lambda: bench.now_s,
    )
    assert told == [(1, 2, False), (2, 4, False), (3, 6, False), (4, 8, True)]
