"""Pairs: their order, when the judge is asked, what ends them; nothing is measured twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import UsageError
from enginebench.gate import Judgement, LooksTaken, Verdict
from enginebench.pairs import LOOKS, MOST_PAIRS, PLANNED_LOOKS, Arms, PairsOutcome, measure_pairs
from enginebench.types import Budget, Cell, EngineSpec, Hardware, Load, Plan, WorkloadSpec

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
PLAN = Plan("check", 0, (CELL,), {})


@dataclass
class Bench:
    """Two arms that note when they were asked, a clock that goes on `cost_s` with each cell."""

    cost_s: float = 1.0
    fails_at: int | None = None
    now_s: float = 0.0
    measured: list[str] = field(default_factory=list)
    looks: list[LooksTaken] = field(default_factory=list)

    def measure(self, cell: Cell, folder: Path) -> bool:
        self.now_s += self.cost_s
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
        cells: int = 1,
    ) -> PairsOutcome:
        repeats = [[replace(CELL, repeat=pair)] * cells for pair in range(MOST_PAIRS)]
        arms = Arms(PLAN, self, self)
        judge = self.judge(verdicts)
        return measure_pairs(
            repeats, arms, folder, judge, budget_s=budget_s, clock=lambda: self.now_s
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


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "check" / "baseline").mkdir(parents=True)
    with pytest.raises(UsageError, match="exists already"):
        Bench().run(tmp_path / "check")


def test_every_pair_is_told(tmp_path: Path) -> None:
    bench, told = Bench(), []

    def tell(pairs: int, elapsed_s: float, judgement: Judgement | None) -> None:
        told.append((pairs, elapsed_s, judgement is not None))

    repeats: Sequence[Sequence[Cell]] = [[CELL]] * MOST_PAIRS
    measure_pairs(
        repeats,
        Arms(PLAN, bench, bench),
        tmp_path / "check",
        bench.judge(settled_at(4)),
        budget_s=100,
        on_pair=tell,
        clock=lambda: bench.now_s,
    )
    assert told == [(1, 2, False), (2, 4, False), (3, 6, False), (4, 8, True)]
