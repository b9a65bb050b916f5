"""What is shown while a plan runs, on a terminal and through a pipe, with a clock of our own."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from enginebench.display import LiveDisplay, PlainDisplay, display_for
from enginebench.drive import DriveProgress
from enginebench.results import CellStatus
from enginebench.types import Budget, Cell, EngineSpec, Hardware, Load, Plan, WorkloadSpec


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plan_of(count: int, repeats: int = 1) -> Plan:
    spec = EngineSpec("paged", "hub/tiny", Hardware(cpu_threads=2))
    cells = tuple(
        Cell(
            i, spec, WorkloadSpec("fixed"), Load(users=i + 1), Budget(None, 10.0), repeat, 0, f"{i}"
        )
        for repeat in range(repeats)
        for i in range(count)
    )
    return Plan("p", 0, cells, {})


def event(requests: int, tokens: int, errors: int = 0) -> DriveProgress:
    return DriveProgress("measure", requests, tokens, errors)


def test_plain_lines_are_few_and_tell_everything() -> None:
    clock, out = Clock(), io.StringIO()
    display = PlainDisplay(Console(file=out, width=60), clock)
    plan = plan_of(2)
    display.run_started(plan, Path("runs/x"))
    for cell in plan.cells:
        display.cell_started(cell)
        clock.now += 2.0
        display.engine_ready(cell, 2.0)
        for second in range(1, 13):
            clock.now += 1.0
            display.progress(cell, event(second, second * 100, errors=1), float(second))
        status = CellStatus("ok") if cell.index == 0 else CellStatus("failed", "it died\nbadly")
        display.cell_finished(cell, status)
    display.run_finished(Path("runs/x"))
    display.close()
    first, second = "[1/2] paged · tiny · cpu:2 · c1", "[2/2] paged · tiny · cpu:2 · c2"
    assert out.getvalue().splitlines() == [
        "2 cells into runs/x",
        f"{first}: ready after 2.0 s",
        f"{first}: measure: 10 requests, 100 tokens/s, 1 errors; 0:12 elapsed, about 0:10 left",
        f"{first}: ok (0:14, 100 tokens/s at the end); 0:14 elapsed, about 0:14 left",
        f"{second}: ready after 2.0 s",
        f"{second}: measure: 10 requests, 100 tokens/s, 1 errors; 0:26 elapsed, about 0:02 left",
        f"{second}: failed: it died (0:14, 100 tokens/s at the end); 0:28 elapsed, about 0:00 left",
        "all cells done after 0:28",
    ]


def test_live_picture_shows_past_present_and_future() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    display = LiveDisplay(console, clock)
    plan = plan_of(3)
    display.run_started(plan, Path("runs/x"))
    try:
        display.cell_started(plan.cells[0])
        display.cell_finished(plan.cells[0], CellStatus("failed", "it died"))
        display.cell_started(plan.cells[1])
        clock.now += 3.0
        display.engine_ready(plan.cells[1], 3.0)
        console.print(display.picture())
        display.progress(plan.cells[1], event(3, 0), 1.0)
        display.progress(plan.cells[1], event(7, 90, errors=2), 2.0)
        console.print(display.picture())
    finally:
        display.close()
    shown = console.export_text()
    assert "✗ [1/3] paged · tiny · cpu:2 · c1  failed: it died" in shown
    assert "▸ [2/3] paged · tiny · cpu:2 · c2  ready after 3.0 s, warming up, 0:03" in shown
    assert "measure: 7 requests, 90 tokens/s, 2 errors" in shown
    assert "1/3 cells" in shown


def test_repeats_are_told_apart() -> None:
    out = io.StringIO()
    display = PlainDisplay(Console(file=out, width=200), Clock())
    plan = plan_of(1, repeats=2)
    display.run_started(plan, Path("x"))
    display.engine_ready(plan.cells[1], 1.0)
    assert "c1 · repeat 2: ready" in out.getvalue()


def test_a_terminal_gets_the_live_one() -> None:
    assert isinstance(display_for(Console(force_terminal=True, file=io.StringIO())), LiveDisplay)
    assert isinstance(display_for(Console(file=io.StringIO())), PlainDisplay)


def test_names_in_brackets_are_no_markup() -> None:
    out = io.StringIO()
    display = PlainDisplay(Console(file=out, width=200), Clock())
    plan = plan_of(1)
    display.run_started(plan, Path("x"))
    display.cell_started(plan.cells[0])
    display.cell_finished(plan.cells[0], CellStatus("failed", "[red]odd[/blue] message"))
    assert "failed: [red]odd[/blue] message" in out.getvalue()
