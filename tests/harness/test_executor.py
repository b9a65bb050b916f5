"""Where cells are measured: units of a plan, the choice of an executor, and a cluster of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from stub_bench import stub_plan

from enginebench.cli.run import run
from enginebench.errors import BenchError, UnknownNameError, UsageError
from enginebench.executor import Executor, units
from enginebench.hardware import Capacity, this_capacity
from enginebench.local_executor import Local
from enginebench.options import parse_options
from enginebench.plan import build_plan
from enginebench.plugins import executors, plugin_manager
from enginebench.progress import Silent
from enginebench.run_settings import RunSettings
from enginebench.store import load
from enginebench.types import Hardware, Load, Plan, Search
from enginebench_ray import plugin
from enginebench_ray.executor import RayExecutor, _check_fits
from enginebench_ray.parcel import pack, unpack


def test_a_unit_is_what_is_compared_on_one_machine() -> None:
    plan = stub_plan("ok", "ok", "dies")
    moved = replace(plan.cells[1], spec=replace(plan.cells[1].spec, hardware=Hardware(gpus=(0, 1))))
    plan = replace(plan, cells=(plan.cells[0], moved, plan.cells[2]))
    first, second = units(plan)
    assert [cell.index for cell in first.plan.cells] == [0, 2]
    assert [cell.index for cell in second.plan.cells] == [1]
    assert (first.hardware, second.hardware) == (Hardware(), Hardware(gpus=(0, 1)))
    assert second.name == "01-m-cuda0-1"
    assert {cell.seed for unit in (first, second) for cell in unit.plan.cells} == {0, 1, 2}


def test_searches_are_for_the_local_executor() -> None:
    plan = replace(stub_plan("ok"), searches=(Search("s", "saturate", None, 0.9),))
    with pytest.raises(UsageError, match="only the local executor does that"):
        units(plan)


def test_the_local_one_is_there_and_others_come_from_plugins() -> None:
    known = executors(plugin_manager() if "ray" in executors() else plugin_manager(plugin))
    assert isinstance(known["ray"], Executor)
    assert isinstance(Local(), Executor)
    assert Local().capacity() == this_capacity()


def test_an_unknown_executor_is_told_before_anything_is_planned(tmp_path: Path) -> None:
    arguments = ["--engines", "echo", "--executor", "rya", "--out", str(tmp_path)]
    result = CliRunner().invoke(run, arguments, obj=plugin_manager())
    assert isinstance(result.exception, UnknownNameError)
    assert "executor" in str(result.exception)


def test_hardware_that_no_machine_has_is_refused() -> None:
    machines = [{"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0}]
    _check_fits(Hardware(cpu_threads=8), machines)
    _check_fits(Hardware(cpu_threads=4, gpus=(1,)), machines)
    with pytest.raises(UsageError, match=r"has cuda:0,2; there are: 8 cores, 0 GPUs; 4 cores"):
        _check_fits(Hardware(gpus=(0, 2)), machines)


def test_a_parcel_holds_the_folder(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "far" / "b"
    (source / "cells").mkdir(parents=True)
    (source / "cells" / "x.json").write_text("{}")
    unpack(pack(source), target)
    assert (target / "cells" / "x.json").read_text() == "{}"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


# ---------------------------------------------------------------- a cluster of two


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes of one core, which both may measure."""
    utils = pytest.importorskip("ray.cluster_utils", reason='needs pip install "enginebench[ray]"')
    node = {"num_cpus": 1, "num_gpus": 0, "resources": {"bench": 1}}
    running = utils.Cluster(initialize_head=True, head_node_args=node)
    running.add_node(**node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", running.address)
        yield running.address
    running.shutdown()


def echo_plan(models: tuple[str, ...]) -> Plan:
    raw: dict[str, str | list[str]] = {
        "engines": ["echo"],
        "model": list(models),
        "hardware": ["cpu:1"],
        "concurrency": ["1,2"],
        "requests": "4",
    }
    plan = build_plan(parse_options(raw), capacity=Capacity(1)).plan
    assert [cell.load for cell in plan.cells[:2]] == [Load(users=1), Load(users=2)]
    return plan


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
class TestTwoWorkers:
    def test_units_are_measured_and_read_together(self, cluster: str, tmp_path: Path) -> None:
        plan = echo_plan(("synthetic:tiny", "synthetic:smollm2-135m"))
        executor, settings = RayExecutor(), RunSettings(check_answers=False)
        assert executor.capacity() == Capacity(1)
        folder = tmp_path / "runs"
        outcome = executor.run(
            plan, folder, Silent(), command="bench run", settings=settings, manager=plugin_manager()
        )
        assert (outcome.ok, outcome.failed) == (4, 0)
        results = load(folder)
        assert len(results.runs) == 2
        assert {result.cell.seed for result in results} == {cell.seed for cell in plan.cells}
        assert all(len(result.records) > 0 for result in results)

    def test_what_a_worker_cannot_do_is_told(self, cluster: str, tmp_path: Path) -> None:
        plan = echo_plan(("synthetic:tiny",))
        (model,) = plan.models.values()
        cells = [replace(c, spec=replace(c.spec, model="gone.gguf")) for c in plan.cells]
        plan = replace(plan, cells=tuple(cells), models={"gone.gguf": model})
        with pytest.raises(BenchError, match=r"1 of 1 units were not measured.*\n00-gone.*gone"):
            RayExecutor().run(
                plan,
                tmp_path / "runs",
                Silent(),
                command="bench run",
                settings=RunSettings(),
                manager=plugin_manager(),
            )


def test_without_a_cluster_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason='needs pip install "enginebench[ray]"')
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match=r"no Ray cluster answers at 127.0.0.1:1; ray start"):
        RayExecutor().capacity()
