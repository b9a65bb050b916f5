"""Cells of several machines in one report; engines that say that they compute nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from simulated import MACHINE, Speed, cell, save, serve

import enginebench
from enginebench.results import ResultSet
from enginebench_reports.groups import groups
from enginebench_reports.summary import Summary


def on_machine(results: ResultSet, cpu: str, *gpus: str) -> ResultSet:
    facts = MACHINE | {
        "cpu": {"model": cpu, "usable_cores": 8},
        "gpus": [{"name": name} for name in gpus],
    }
    return ResultSet([replace(each, run=replace(each.run, machine=facts)) for each in results])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    path = tmp_path_factory.mktemp("runs") / "run"
    speeds = {"paged": Speed(5, 5), "quant": Speed(9, 9), "echo": Speed(1, 1)}
    pairs = [
        (cell(place, name, 1), serve(speed, 1, requests=12))
        for place, (name, speed) in enumerate(speeds.items())
    ]
    return save(path, pairs)


def test_machines_never_share_a_group(run: ResultSet) -> None:
    frame = ResultSet([*run, *on_machine(run, "Other 1", "H100", "H100")]).to_pandas()
    here, there = groups(frame)
    assert here.machine == "Example 9000, 2 cores"
    assert "cpu:2 of Example 9000, 2 cores" in here.title
    assert there.machine == "2x H100, Other 1, 8 cores"
    assert len(here.frame) == len(there.frame) == 3


def test_one_machine_is_not_named_in_every_title(run: ResultSet) -> None:
    (group,) = groups(ResultSet([*run, *run]).to_pandas())
    assert group.machine == ""
    assert "Example" not in group.title


def test_every_machine_has_its_answer(run: ResultSet) -> None:
    summary = Summary.of(ResultSet([*run, *on_machine(run, "Other 1")]))
    said = [summary.answer_of(group) for group in summary.groups]
    assert all(answer is not None and answer in summary.answers for answer in said)


def test_the_run_says_which_engines_compute_nothing(run: ResultSet) -> None:
    folder = run.cells[0].run.folder
    assert Summary.of(run).null_engines == ["echo"]  # not recorded: as the installed plugin says
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"null_engines": ["quant"]}))
    try:
        assert Summary.of(enginebench.load(folder)).null_engines == ["quant"]
    finally:
        (folder / "plan.json").write_text(json.dumps(plan))
