"""Portions: small, other prompts in each pair, and options that plan the same cells again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from stub_bench import StubEngine, stub_manager

from enginebench import hookimpl
from enginebench.errors import UsageError
from enginebench.options import parse_options
from enginebench.plan import build_plan
from enginebench.plan_file import read_plan_file
from enginebench.plugins import Origin, PluginManager
from enginebench.portion import PairPortions, Portion
from enginebench.types import Engine


class OtherEngine(StubEngine):
    name = "other"


class OtherPlugin:
    def __init__(self, pids: Path) -> None:
        self.pids = pids

    @hookimpl
    def enginebench_engines(self) -> Sequence[Engine]:
        return [OtherEngine(self.pids)]


@pytest.fixture
def manager(tmp_path: Path) -> PluginManager:
    """`stub` and `other`, and the workload `posts`."""
    manager = stub_manager(tmp_path / "pids")
    manager.add(OtherPlugin(tmp_path / "pids"), Origin("other", "test", ""))
    return manager


PLAN = {
    "engines": ("stub,other",),
    "model": ("synthetic:tiny",),
    "hardware": ("cpu:1",),
    "workload": ("posts",),
    "concurrency": ("1,4",),
    "requests": ("3",),
    "warmup": ("2",),
    "set": ("stub.mode=ok", "other.mode=ok,refuses"),
}


def cells_of(portions: Sequence[Portion]) -> list[list[str]]:
    return [
        [f"{cell.spec.label} {cell.load}" for cell in portion.plan.cells] for portion in portions
    ]


def test_a_portion_is_one_engine_at_one_load(manager: PluginManager) -> None:
    assert cells_of(PairPortions(PLAN, manager)[0]) == [
        ["stub mode=ok c1"],
        ["other mode=ok c1", "other mode=refuses c1"],
        ["stub mode=ok c4"],
        ["other mode=ok c4", "other mode=refuses c4"],
    ]


def test_every_pair_has_prompts_of_its_own(manager: PluginManager) -> None:
    portions = PairPortions({**PLAN, "seed": ("7",)}, manager)
    seeds = [[cell.seed for part in portions[pair] for cell in part.plan.cells] for pair in (0, 1)]
    assert not set(seeds[0]) & set(seeds[1])
    assert [part.options["seed"] for part in portions[1]] == [("8",)] * 4
    assert {cell.repeat for part in portions[1] for cell in part.plan.cells} == {1}


def test_the_options_plan_the_same_cells_again(manager: PluginManager, tmp_path: Path) -> None:
    for portion in PairPortions(PLAN, manager)[5]:
        file = tmp_path / "plan.toml"
        file.write_text(portion.toml())
        again = build_plan(parse_options(read_plan_file(file)), manager).plan.cells
        assert [replace(cell, repeat=5) for cell in again] == list(portion.plan.cells)
        assert all(cell.budget.warmup_requests == 2 for cell in again)


@pytest.mark.parametrize(
    "change",
    [{"concurrency": ("1,4",), "rate": ("2",)}, {"rate": ("0.1,3",), "concurrency": ()}],
)
def test_open_loops_are_portions_too(
    manager: PluginManager, change: Mapping[str, Sequence[str]]
) -> None:
    options = {**PLAN, "engines": ("stub",), "set": (), **change}
    whole = build_plan(parse_options(options), manager).plan.cells
    portions = PairPortions({key: texts for key, texts in options.items() if texts}, manager)[0]
    assert [cell.load for part in portions for cell in part.plan.cells] == [
        cell.load for cell in whole
    ]
    assert len(portions) == len(whole)


def test_what_the_options_cannot_take_apart_stays_whole() -> None:
    options = {
        "engines": ("echo",),
        "model": ("synthetic:tiny",),
        "concurrency": ("1",),
        "rate": ("5",),
        "arrival": ("constant",),  # which a closed loop alone would refuse
        "requests": ("3",),
    }
    (portion,) = PairPortions(options)[0]
    assert [str(cell.load) for cell in portion.plan.cells] == ["c1", "r5"]


def test_a_plan_without_sense_is_refused(manager: PluginManager) -> None:
    with pytest.raises(UsageError, match="unknown engine 'nobody'"):
        PairPortions({**PLAN, "engines": ("nobody",)}, manager)
