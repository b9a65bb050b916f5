"""Measures two arms in turn, pair after pair, until a judge has seen enough or time is up.

A pair is every cell of the plan's next repeat, each measured in both arms right after one another:
the baseline first in even pairs, the current arm first in odd ones (ABBA), so that a machine that
drifts does it to both. Every cell of an arm becomes a Run of its own, in `baseline/` and `current/`
of one folder:

    outcome = measure_pairs(repeats, arms, Path("checks/1"), judge, budget_s=600)
    bench check --baseline checks/1/baseline --current checks/1/current     # judges them again

The judge is asked after set numbers of pairs only (`LOOKS`), so that it can account for every look.
Knows no statistics; `enginebench.arms` says what an arm is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginebench.arms import Arm
from enginebench.errors import UsageError
from enginebench.gate import Judgement, LooksTaken
from enginebench.types import Cell, Plan

__all__ = ["LOOKS", "MOST_PAIRS", "Arms", "PairsOutcome", "measure_pairs"]

LOOKS = (4, 6, 10, 14, 20, 32, 48)
"""Even numbers, so that each arm came first equally often; each about half as many again."""
MOST_PAIRS = LOOKS[-1]
PLANNED_LOOKS = len(LOOKS) + 1
"""One more when the budget ends between two of them."""

Judge = Callable[[LooksTaken], Judgement]
OnPair = Callable[[int, float, Judgement | None], None]


@dataclass(frozen=True, slots=True)
class Arms:
    """The two sides, and the plan whose cells both measure."""

    plan: Plan
    baseline: Arm
    current: Arm


@dataclass(frozen=True, slots=True)
class PairsOutcome:
    """How it ended: the last judgement, how many pairs there were, and how long all took."""

    judgement: Judgement
    pairs: int
    elapsed_s: float


def measure_pairs(
    repeats: Sequence[Sequence[Cell]],
    arms: Arms,
    folder: Path,
    judge: Judge,
    *,
    budget_s: float,
    on_pair: OnPair = lambda pairs, elapsed_s, judgement: None,
    clock: Callable[[], float] = time.monotonic,
) -> PairsOutcome:
    """Add pairs until the judgement is neither inconclusive nor open, or no pair fits any more.

    `repeats[k]` holds the cells of pair k; the first pair is measured whatever the budget. A cell
    that fails ends it: its judgement can only be "invalid". Raises UsageError if `folder` exists.
    """
    _make(folder)
    start, slowest_s = clock(), 0.0
    looks: tuple[int, ...] = ()
    for pair, cells in enumerate(repeats):
        began = clock()
        failed = _measure(pair, cells, arms, folder)
        slowest_s = max(slowest_s, clock() - began)
        done, elapsed_s = pair + 1, clock() - start
        is_last = failed or done == len(repeats) or elapsed_s + slowest_s > budget_s
        judgement = None
        if done in LOOKS or is_last:
            looks = (*looks, done)
            judgement = judge(LooksTaken(looks, PLANNED_LOOKS))
        on_pair(done, elapsed_s, judgement)
        if judgement is not None and (is_last or judgement.verdict != "inconclusive"):
            return PairsOutcome(judgement, done, elapsed_s)
    raise AssertionError("a plan without cells")


def _measure(pair: int, cells: Sequence[Cell], arms: Arms, folder: Path) -> bool:
    """Both arms of every cell; whether any failed."""
    sides = [("baseline", arms.baseline), ("current", arms.current)]
    failed = False
    for place, cell in enumerate(cells):
        for name, arm in sides if pair % 2 == 0 else sides[::-1]:
            failed |= not arm.measure(cell, folder / name / f"{pair:03d}-{place:02d}")
    return failed


def _make(folder: Path) -> None:
    try:
        for name in ("baseline", "current"):
            (folder / name).mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} exists already; name another folder with --out") from None
