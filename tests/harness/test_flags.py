"""Reasons to doubt a cell come from plugins, and `bench run`'s table shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stub_bench import stub_plan

from enginebench import hookimpl, plugins
from enginebench.result_table import result_table
from enginebench.results import CellResult, CellStatus
from enginebench.store import CellData, load, save_run
from enginebench.types import Flag


class Doubts:
    @hookimpl
    def enginebench_flags(
        self, cell: CellResult, figures: Mapping[str, float | None]
    ) -> Sequence[Flag]:
        late = figures.get("lateness") or 0
        yield_ = [Flag("caution", "late", "it was late")] if late else []
        return [*yield_, Flag("invalid", "odd", f"odd: {cell.cell.id}")]


def saved(folder: Path) -> CellResult:
    plan = stub_plan("ok")
    save_run(folder / "run", plan, {plan.cells[0].id: CellData(CellStatus("ok"))})
    return load(folder / "run").cells[0]


def test_a_plugin_may_doubt_a_cell(tmp_path: Path) -> None:
    manager = plugins.plugin_manager(Doubts())
    found = plugins.flags(saved(tmp_path), {"lateness": 1.0}, manager)
    levels = [flag.level for flag in found]
    assert levels == sorted(levels, key=lambda level: level != "invalid")
    assert {"odd", "late"} <= {flag.name for flag in found}


def test_the_table_names_the_worst_doubt(tmp_path: Path) -> None:
    result = saved(tmp_path)
    results = load(tmp_path / "run")
    for flags, state in (
        ([Flag("invalid", "x", "y"), Flag("caution", "x", "y")], "[red]invalid"),
        ([Flag("caution", "x", "y")], "caution"),
        ([], "ok"),
    ):
        table = result_table(results, {result.cell.id: flags})
        assert list(table.columns[-1].cells) == [state]
