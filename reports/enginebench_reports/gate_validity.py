"""Whether two arms may be judged at all, and what to know where they may.

A reason makes the whole check invalid: a gate that passes what it could not measure is worse than
none. A note is for the reader and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enginebench.results import RunInfo
from enginebench_reports.compare_arms import Arm, Match

__all__ = ["machine_differences", "machine_identity", "notes", "reasons"]


def reasons(
    baseline: Arm, current: Arm, found: Match, *, allow_machine_mismatch: bool
) -> Iterator[str]:
    """Why no verdict can be given."""
    if not allow_machine_mismatch:
        differences = machine_differences([*_runs(baseline), *_runs(current)])
        if differences:
            yield (
                f"the Runs come from different machines ({'; '.join(differences)}): measure both "
                "on one, or pass --allow-machine-mismatch"
            )
    for place in found.only_first:
        yield f"{place} was measured in the baseline only"
    for arm in (baseline, current):
        for place, cells in arm.cells.items():
            for repeat, cell in enumerate(cells):
                for flag in cell.flags:
                    if flag.level == "invalid":
                        name = f"{arm.name}, {place}, repeat {repeat}"
                        yield f"{name}: {flag.name}: {flag.reason}"


def notes(baseline: Arm, current: Arm, found: Match) -> Iterator[str]:
    """What to know about a verdict that was given."""
    for place in found.only_second:
        yield f"{place} is new: the baseline does not have it, so it was not judged"
    for place, (one, other) in found.both.items():
        if len(one) != len(other):
            yield (
                f"{place}: {len(one)} repeats in the baseline, {len(other)} in the current Run; "
                f"the last {abs(len(one) - len(other))} were left out"
            )
    yield from _version_changes(_runs(baseline), _runs(current))
    if different := _other_prompts(found):
        yield f"in {different} of the pairs the arms did not answer the same prompts (other seeds)"
    if _one_after_the_other(_runs(baseline), _runs(current)):
        yield (
            "the arms were measured one after the other, so that a machine that changed meanwhile "
            "looks like a change of the engine; `bench check --against` measures them in turn"
        )
    for arm in (baseline, current):
        yield from _cautions(arm)


def machine_differences(runs: Sequence[RunInfo]) -> Sequence[str]:
    """What differs between the machines of the Runs, as `CPU: X, Y`."""
    facts = [machine_identity(run.machine) for run in runs]
    return [
        f"{name}: {', '.join(values)}"
        for name in facts[0]
        if len(values := list(dict.fromkeys(str(fact[name]) for fact in facts))) > 1
    ]


def machine_identity(machine: Mapping[str, Any]) -> Mapping[str, Any]:
    """What must be equal in machines whose figures are compared."""
    cpu = machine.get("cpu") or {}
    gpus = [gpu.get("name") for gpu in machine.get("gpus") or ()]
    return {
        "CPU": cpu.get("model"),
        "usable cores": cpu.get("usable_cores"),
        "CPU limit in cores": cpu.get("quota_cores"),
        "GPUs": ", ".join(map(str, gpus)) or "none",
    }


def _runs(arm: Arm) -> Sequence[RunInfo]:
    found = {
        cell.result.run.folder: cell.result.run for cells in arm.cells.values() for cell in cells
    }
    return list(found.values())


def _one_after_the_other(one: Sequence[RunInfo], other: Sequence[RunInfo]) -> bool:
    first, second = ([run.created_at for run in runs] for runs in (one, other))
    return max(first) < min(second) or max(second) < min(first)


def _version_changes(one: Sequence[RunInfo], other: Sequence[RunInfo]) -> Iterator[str]:
    """Packages are part of what is compared; who compares commits may not expect it."""
    before, now = (
        {name: v for run in runs for name, v in run.versions.items()} for runs in (one, other)
    )
    changed = [
        f"{name} {before.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        yield f"the arms differ in installed packages: {'; '.join(changed)}"


def _other_prompts(found: Match) -> int:
    """Pairs whose cells had other seeds, and so other prompts."""
    return sum(
        one.result.cell.seed != other.result.cell.seed
        for cells in found.both.values()
        for one, other in zip(*cells, strict=False)
    )


def _cautions(arm: Arm) -> Iterator[str]:
    """Each kind once, with how many cells it concerns."""
    found: dict[str, list[str]] = {}
    for place, cells in arm.cells.items():
        for cell in cells:
            for flag in cell.flags:
                if flag.level == "caution":
                    found.setdefault(flag.name, []).append(f"{place}: {flag.reason}")
    for name, said in found.items():
        count = "1 cell" if len(said) == 1 else f"{len(said)} cells"
        yield f"{arm.name}: {name} in {count}, as in {said[0]}"
