"""Ceilings: what calibrators print, what is kept for which machine, and what a Run stores."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stub_bench import QUICK, StubPlugin, stub_plan

from enginebench import hookimpl, load
from enginebench.calibrating import calibrate
from enginebench.ceilings import Ceilings, Measured, keep_ceilings, kept_ceilings, machine_key
from enginebench.cli import main
from enginebench.errors import EngineError, UsageError
from enginebench.execute import run_plan
from enginebench.machine import fingerprint
from enginebench.plugins import Origin, PluginManager, plugin_manager
from enginebench.progress import Silent
from enginebench.types import Calibrator, Hardware

ONE = Hardware(cpu_threads=1)
SAID = {
    "read_bytes_per_s": [[1000, [9.0, 10.0]], [2000, [4.0]]],
    "operations_per_s": {"f32": [7.0]},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path / "cache"))


def says(printed: Any, **more: Any) -> Calibrator:
    text = printed if isinstance(printed, str) else json.dumps(printed)
    return Calibrator("fake", (sys.executable, "-c", f"print({text!r})"), **more)


def test_the_best_round_of_any_calibrator_counts() -> None:
    other = {
        "read_bytes_per_s": [[2000, [5.0, 4.0]]],
        "operations_per_s": {"f32": [3.0], "int8": [9]},
    }
    found = calibrate([says(SAID), says(other)], ONE)
    assert found.hardware == "cpu:1"
    assert found.read_bytes_per_s == ((1000, 10.0), (2000, 5.0))
    assert found.operations_per_s == {"f32": 7.0, "int8": 9.0}
    assert found.spread == pytest.approx(0.1)


def test_a_larger_size_is_never_faster_than_a_smaller_one() -> None:
    measured = Measured([(10, [4.0]), (20, [6.0]), (40, [2.0])])
    found = measured.ceilings(ONE, "", {})
    assert [found.read_rate(size) for size in (1, 10, 15, 20, 39, 40, 99)] == [6, 6, 6, 6, 6, 2, 2]
    assert Measured().ceilings(ONE, "", {}).read_rate(5) is None


def test_several_gpus_are_so_many_times_one() -> None:
    found = Measured([(10, [4.0])], {"bf16": [5.0]}).ceilings(Hardware(gpus=(0, 1)), "", {})
    assert (found.read_rate(10), found.operations_per_s["bf16"]) == (8.0, 10.0)


@pytest.mark.parametrize(
    ("calibrator", "words"),
    [
        (says("nonsense"), "printed 'nonsense"),
        (Calibrator("fake", (sys.executable, "-c", "raise SystemExit('no VNNI')")), "no VNNI"),
        (Calibrator("fake", ("/no/such/program",)), "fake"),
    ],
)
def test_a_calibrator_that_fails_is_quoted(calibrator: Calibrator, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        calibrate([calibrator], ONE)


def test_a_gpu_needs_a_calibrator_of_gpus() -> None:
    with pytest.raises(UsageError, match="no plugin can measure cuda:0"):
        calibrate([says(SAID)], Hardware(gpus=(0,)))


def test_ceilings_are_kept_for_this_machine_and_this_hardware() -> None:
    machine = fingerprint()
    assert kept_ceilings(machine, ONE) is None
    found = Measured([(10, [4.0])]).ceilings(ONE, "now", {"numpy": "2"})
    path = keep_ceilings(found, ONE)
    assert kept_ceilings(machine, ONE) == found
    assert kept_ceilings(machine, Hardware(cpu_threads=2)) is None
    other = {**machine, "cpu": {**machine["cpu"], "model": "another"}}
    assert kept_ceilings(other, ONE) is None
    assert machine_key({}, ONE) == machine_key({}, ONE)
    path.write_text("{")
    assert kept_ceilings(machine, ONE) is None


class OneCalibrator:
    @hookimpl
    def enginebench_calibrators(self) -> list[Calibrator]:
        return [says(SAID)]


def test_the_command_prints_and_keeps_them() -> None:
    manager = PluginManager()
    manager.add(OneCalibrator(), Origin("one", "one", "1"))
    told = CliRunner().invoke(main, ["calibrate", "--hardware", "cpu:1"], obj=manager)
    assert told.exit_code == 0, told.output
    assert "multiply and add f32" in told.output and "kept in" in told.output
    kept = kept_ceilings(fingerprint(), ONE)
    assert kept is not None and kept.operations_per_s == {"f32": 7.0}


def test_a_run_stores_the_ceilings_of_its_hardware(tmp_path: Path) -> None:
    found = Ceilings("cpu:1", ((10, 4.0),), {}, 0.0, "now", {})
    keep_ceilings(found, ONE)
    manager = plugin_manager(StubPlugin(tmp_path / "pids"))
    plan = stub_plan("ok", hardware=ONE)
    run_plan(plan, tmp_path / "run", Silent(), command="", settings=QUICK, manager=manager)
    stored = load(tmp_path / "run").runs[0].machine["ceilings"]
    assert stored["cpu:1"]["read_bytes_per_s"] == [[10, 4.0]]
