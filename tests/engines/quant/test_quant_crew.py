"""The crew runs every task once and no phase before the one ahead of it, with any thread count."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numba import cfunc

from enginebench_quant.kernels.atomics import atomic_add, atomic_load
from enginebench_quant.kernels.crew import Crew, Program, Task
from enginebench_quant.kernels.memory import KERNEL, peek
from enginebench_quant.kernels.table import Kernels


@cfunc(KERNEL)
def count_units(args, begin, end, thread):  # type: ignore[no-untyped-def]
    """args: address of the counts of all phases, this phase, units that must be done before it.

    Adds end - begin to the phase's count; adds to the last one if it began too early.
    """
    counts, phase, needed = peek(args, 0), peek(args, 1), peek(args, 2)
    if phase > 0 and atomic_load(counts + 8 * (phase - 1)) != needed:
        atomic_add(counts + 8 * peek(args, 3), 1)
    atomic_add(counts + 8 * phase, end - begin)


def make_program(counts: np.ndarray, phases: int, units: int) -> Program:
    tasks = []
    for phase in range(phases):
        arguments = np.array([counts.ctypes.data, phase, units, phases], np.int64)
        tasks.append(
            [Task(count_units.address, arguments, unit, unit + 1) for unit in range(units)]
        )
    return Program(tasks)


@pytest.fixture
def interpreter(best_kernels: Kernels):  # type: ignore[no-untyped-def]
    return best_kernels.interpreter()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("units", [1, 3, 40])
def test_every_task_runs_once_and_in_order(interpreter, threads: int, units: int) -> None:  # type: ignore[no-untyped-def]
    phases, launches = 7, 30
    counts = np.zeros(phases + 1, np.int64)
    crew = Crew(threads, interpreter)
    program = make_program(counts, phases, units)
    try:
        for launch in range(1, launches + 1):
            counts[:-1] = 0
            crew.run(program)
            assert counts.tolist() == [units] * phases + [0], f"launch {launch}"
    finally:
        crew.close()


def test_programs_may_alternate(interpreter) -> None:  # type: ignore[no-untyped-def]
    first, second = np.zeros(4, np.int64), np.zeros(3, np.int64)
    crew = Crew(2, interpreter)
    one, other = make_program(first, 3, 5), make_program(second, 2, 9)
    try:
        for _ in range(50):
            first[:-1], second[:-1] = 0, 0
            crew.run(one)
            crew.run(other)
            assert first.tolist() == [5, 5, 5, 0]
            assert second.tolist() == [9, 9, 0]
    finally:
        crew.close()


def test_close_ends_the_helpers(interpreter) -> None:  # type: ignore[no-untyped-def]
    before = threading.active_count()
    crew = Crew(3, interpreter)
    assert threading.active_count() == before + 2
    crew.close()
    assert threading.active_count() == before
