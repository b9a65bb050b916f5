"""Measures two arms in turn, pair after pair, until a judge has seen enough or time is up.

A pair is all portions of the plan, each measured in both arms right after one another: the baseline
first in even pairs, the current arm first in odd ones (ABBA), so that a machine that drifts does it
to both. Every portion of an arm becomes a Run of its own, in `baseline/` and `current/` of one
folder:

    outcome = measure_pairs(portions, arms, Path("checks/1"), judge, budget_s=600)
    bench check --baseline checks/1/baseline --current checks/1/current     # judges them again

Called again on the same folder after a kill, it goes on: pairs that are whole stay, a portion
that only one arm has measured is measured anew in both. The judge is asked after set numbers of
pairs only (`LOOKS`), so that it can account for every look. Knows no statistics; `enginebench.arms`
says what an arm is.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from enginebench.arms import Arm
from enginebench.gate import Judgement, LooksTaken
from enginebench.portion import Portion
from enginebench.run_folder import RunFolder

__all__ = ["LOOKS", "MOST_PAIRS", "PLANNED_LOOKS", "Arms", "PairsOutcome", "measure_pairs"]

LOOKS = (4, 6, 10, 14, 20, 32, 48)
"""Even numbers, so that each arm came first equally often; each about half as many again."""
MOST_PAIRS = LOOKS[-1]
PLANNED_LOOKS = len(LOOKS) + 1
"""One more when the budget ends between two of them."""

Judge = Callable[[LooksTaken], Judgement]
OnPair = Callable[[int, float, Judgement | None], None]


class Portions(Protocol):
    """The portions of each pair, up to MOST_PAIRS."""

    def __getitem__(self, pair: int, /) -> Sequence[Portion]: ...


@dataclass(frozen=True, slots=True)
class Arms:
    """The two sides."""

    baseline: Arm
    current: Arm


@dataclass(frozen=True, slots=True)
class PairsOutcome:
    """How it ended: the last judgement, how many pairs there were, and how long all took."""

    judgement: Judgement
    pairs: int
    elapsed_s: float


def measure_pairs(
    portions: Portions,
    arms: Arms,
    folder: Path,
    judge: Judge,
    *,
    budget_s: float,
    spent_s: float = 0.0,
    on_pair: OnPair = lambda pairs, elapsed_s, judgement: None,
    clock: Callable[[], float] = time.monotonic,
) -> PairsOutcome:
    """Add pairs until the judgement is neither inconclusive nor open, or no pair fits any more.

    The first pair is measured whatever the budget, of which `spent_s` went into the pairs that
    `folder` holds already. A cell that fails ends it: its judgement can only be "invalid".
    """
    start, slowest_s = clock() - spent_s, 0.0
    first = max(0, _whole_pairs(portions, folder) - 1)  # the last whole one may not be judged yet
    looks = tuple(size for size in LOOKS if size <= first)
    for pair in range(first, MOST_PAIRS):
        began = clock()
        failed = _measure(pair, portions[pair], arms, folder)
        slowest_s = max(slowest_s, clock() - began)
        done, elapsed_s = pair + 1, clock() - start
        is_last = failed or done == MOST_PAIRS or elapsed_s + slowest_s > budget_s
        judgement = None
        if done in LOOKS or is_last:
            looks = (*looks, done)
            judgement = judge(LooksTaken(looks, PLANNED_LOOKS))
        on_pair(done, elapsed_s, judgement)
        if judgement is not None and (is_last or judgement.verdict != "inconclusive"):
            return PairsOutcome(judgement, done, elapsed_s)
    raise AssertionError("the last pair ends it")


def _whole_pairs(portions: Portions, folder: Path) -> int:
    """How many pairs were measured before, without a gap."""
    for pair in range(MOST_PAIRS):
        if not (folder / "baseline" / _name(pair, 0)).exists():
            return pair
        if not all(_is_whole(folder, _name(pair, place)) for place in range(len(portions[pair]))):
            return pair
    return MOST_PAIRS


def _measure(pair: int, portions: Sequence[Portion], arms: Arms, folder: Path) -> bool:
    """Both arms of every portion; whether any failed."""
    sides = [("baseline", arms.baseline), ("current", arms.current)]
    failed = False
    for place, portion in enumerate(portions):
        name = _name(pair, place)
        if _is_whole(folder, name):
            continue
        for arm_name, _ in sides:
            shutil.rmtree(folder / arm_name / name, ignore_errors=True)
            (folder / arm_name).mkdir(parents=True, exist_ok=True)
        for arm_name, arm in sides if pair % 2 == 0 else sides[::-1]:
            failed |= not arm.measure(portion, folder / arm_name / name)
    return failed


def _is_whole(folder: Path, name: str) -> bool:
    """Whether both arms have measured it to its end."""
    runs = [folder / arm / name for arm in ("baseline", "current")]
    return all((run / "run.json").exists() and not RunFolder.open(run).unsealed() for run in runs)


def _name(pair: int, place: int) -> str:
    return f"{pair:03d}-{place:02d}"
