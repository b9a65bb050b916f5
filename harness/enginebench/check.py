"""A check that measures both arms itself: begun from what was asked, resumed from its folder.

    folder = begin(CheckRequest(against="main", plan=Path("ci.toml")), Path("checks/1"), manager)
    judgement = proceed(folder, manager, print)

The folder holds `check.json` (what is compared, how strictly, how far it got), the arms' Runs in
`baseline/` and `current/`, and logs. Killed halfway, `proceed` goes on with it, provided that the
machine's software and the working folder's source are what they were. Judges nothing itself.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from enginebench import plugins
from enginebench.arms import CommandArm, PlannedArm, replayed_arm
from enginebench.atomic import write_json
from enginebench.checkout import Installation, checkout, commit_of, this_bench
from enginebench.errors import DamagedError, StoreError, UsageError
from enginebench.gate import GateRules, Judgement, LooksTaken, Verdict
from enginebench.machine import package_versions
from enginebench.pairs import Arms, measure_pairs
from enginebench.plan_file import read_plan_file
from enginebench.plugins import PluginManager
from enginebench.portion import PairPortions
from enginebench.revision import tree_digest
from enginebench.store import load

__all__ = ["DEFAULT_BUDGET_S", "CheckRequest", "CheckState", "begin", "proceed"]

DEFAULT_BUDGET_S = 600.0
STATE = "check.json"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What is to be compared: the plan as it stands, with `against`, a Run folder or a commit."""

    against: str
    plan: Path
    rules: GateRules = field(default_factory=GateRules)
    budget_s: float = DEFAULT_BUDGET_S
    installation: Installation = field(default_factory=Installation)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckState:
    """`check.json`. Either `run` (a folder) or `commit` is the baseline; `title` is how it was
    called. `conditions` must be the same when the check goes on.
    """

    title: str
    run: str | None
    commit: str | None
    options: Mapping[str, tuple[str, ...]]
    rules: GateRules
    budget_s: float
    installation: Installation
    conditions: Mapping[str, str]
    pairs: int = 0
    spent_s: float = 0.0
    verdict: Verdict | None = None


def begin(request: CheckRequest, folder: Path, manager: PluginManager | None = None) -> Path:
    """Make the folder of a new check, in which nothing is measured yet; returns it.

    Raises UsageError for whatever can be found wrong before anything is measured.
    """
    state = _new_state(request)
    portions = PairPortions(state.options, manager)
    if state.run is not None:
        replayed_arm(Path(state.run), portions.plan, PlannedArm("", manager))
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} exists already; name another folder with --out") from None
    except OSError as error:
        raise StoreError(f"cannot make {folder}: {error.strerror}") from error
    write_json(folder / STATE, state)
    return folder


def proceed(
    folder: Path,
    manager: PluginManager | None = None,
    tell: Tell = lambda line: None,
    *,
    budget_s: float | None = None,
) -> Judgement:
    """Measure until the verdict is clear or the budget is spent; `budget_s` replaces the old one.

    Raises UsageError if the check has ended already, or cannot go on here.
    """
    with _locked(folder):
        state = _read(folder)
        _check_open(folder, state)
        state = replace(state, budget_s=budget_s or state.budget_s)
        portions = PairPortions(state.options, manager)
        for out in portions.left_out:
            tell(f"left out: {out}")
        with _arms(folder, state, portions, manager, tell) as arms:
            return _measured(folder, state, portions, arms, manager, tell)


def _measured(
    folder: Path,
    state: CheckState,
    portions: PairPortions,
    arms: Arms,
    manager: PluginManager | None,
    tell: Tell,
) -> Judgement:
    def judge(looks: LooksTaken) -> Judgement:
        baseline, current = load(folder / "baseline"), load(folder / "current")
        return plugins.gate(manager).judge(baseline, current, state.rules, looks)

    def note(pairs: int, elapsed_s: float, judgement: Judgement | None) -> None:
        write_json(folder / STATE, replace(state, pairs=pairs, spent_s=elapsed_s))
        said = "" if judgement is None else f": {judgement.headline}"
        tell(f"pair {pairs} after {elapsed_s:.0f} s of {state.budget_s:.0f} s{said}")

    outcome = measure_pairs(
        portions,
        arms,
        folder,
        judge,
        budget_s=state.budget_s,
        spent_s=state.spent_s,
        on_pair=note,
    )
    verdict = outcome.judgement.verdict
    ended = replace(state, pairs=outcome.pairs, spent_s=outcome.elapsed_s, verdict=verdict)
    write_json(folder / STATE, ended)
    tell(f"{outcome.pairs} pairs in {outcome.elapsed_s:.0f} s; their Runs: {folder}")
    return outcome.judgement


@contextmanager
def _arms(
    folder: Path,
    state: CheckState,
    portions: PairPortions,
    manager: PluginManager | None,
    tell: Tell,
) -> Iterator[Arms]:
    """Both arms in the same manner: in this process, or each by a `bench` of its own."""
    if state.commit is None:
        here = PlannedArm(shlex.join(["bench", *sys.argv[1:]]), manager)
        replayed = replayed_arm(Path(state.run or ""), portions.plan, here)
        for difference in replayed.differences:
            tell(f"not as in {state.title}: {difference}")
        yield Arms(replayed, here)
        return
    tell(f"preparing {state.title} ({state.commit[:12]})")
    log = folder / "checkout.log"
    with checkout(state.commit, folder / "checkout", state.installation, log) as bench:
        yield Arms(
            CommandArm(bench, folder / "baseline.log"),
            CommandArm(this_bench("this installation"), folder / "current.log"),
        )


def _new_state(request: CheckRequest) -> CheckState:
    options = read_plan_file(request.plan)
    for key in ("repeats", "reuse_servers"):
        if key in options:
            raise UsageError(
                f"{request.plan}: {key} has no place in a plan for `bench check`, which adds pairs "
                "as they are needed and starts a server for each cell; remove it"
            )
    run, commit = _baseline(request.against)
    if run is not None and request.installation != Installation():
        raise UsageError(
            "--install and --keep-environment are for a commit; the Run "
            f"{request.against} is replayed with what is installed here"
        )
    return CheckState(
        title=request.against,
        run=run,
        commit=commit,
        options=options,
        rules=request.rules,
        budget_s=request.budget_s,
        installation=request.installation,
        conditions=_conditions(),
    )


def _baseline(against: str) -> tuple[str | None, str | None]:
    """Run folder or commit, whichever `against` names; a folder that is a Run comes first."""
    path = Path(against)
    if (path / "run.json").is_file():
        return str(path.resolve()), None
    if (commit := commit_of(against)) is not None:
        return None, commit
    what = "a folder, but no Run folder (it has no run.json)," if path.is_dir() else "no Run folder"
    raise UsageError(
        f"--against {against}: it is {what} and no commit of this folder's git repository; give "
        "the folder that `bench run` named, or a branch, tag or commit (`git fetch` it first)"
    )


def _conditions() -> dict[str, str]:
    """What must stay the same between the pairs of a check."""
    return {"source": tree_digest() or "no repository", **package_versions()}


def _check_open(folder: Path, state: CheckState) -> None:
    if state.verdict is not None:
        raise UsageError(
            f"{folder} has ended ({state.verdict}); `bench check --baseline {folder}/baseline "
            f"--current {folder}/current` judges it again. To add pairs to a finished check would "
            "be one more look than was accounted for: start a new one, with a larger --budget"
        )
    now = _conditions()
    changed = [
        f"{name} was {state.conditions.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in sorted(state.conditions.keys() | now.keys())
        if state.conditions.get(name) != now.get(name)
    ]
    if changed:
        raise UsageError(
            f"{folder} was begun under other conditions ({'; '.join(changed)}), so its pairs could "
            "not be compared; restore those, or start a new check"
        )


def _read(folder: Path) -> CheckState:
    try:
        return msgspec.json.decode((folder / STATE).read_bytes(), type=CheckState)
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no check: it has no {STATE}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise DamagedError(f"cannot read {folder / STATE}: {error}; start a new check") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held by the process that measures for this check; a second one gets a UsageError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{folder} holds no check: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(f"{folder} is being measured by another process") from error
    finally:
        os.close(descriptor)
