"""The compiled loops of a crew: one works through a program, one opens a launch. See `crew.py`."""

from __future__ import annotations

from numba import cfunc, types

from enginebench_quant.kernels.arguments import LINE_BYTES, TASK_WORDS
from enginebench_quant.kernels.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    atomic_swap_if,
    pause,
    yield_core,
)
from enginebench_quant.kernels.memory import call_kernel, peek

__all__ = ["build_reset", "build_run"]

SPINS_BEFORE_YIELD = 400


def build_run():
    """Compile the interpreter: it works through all phases of a launch (a number times 2**32)."""

    @cfunc(types.void(*[types.int64] * 6), error_model="numpy")
    def run(bounds, tasks, words, phases, launch, thread):
        for phase in range(phases):
            first = peek(bounds, phase)
            count = peek(bounds, phase + 1) - first
            tickets = words + phase * 2 * LINE_BYTES
            done = tickets + LINE_BYTES
            while True:
                ticket = atomic_load(tickets) - launch
                if ticket < 0 or ticket > count:
                    return  # the crew is at a later launch
                if ticket == count:
                    break
                if atomic_swap_if(tickets, launch + ticket, launch + ticket + 1):
                    task = tasks + (first + ticket) * TASK_WORDS * 8
                    call_kernel(peek(task, 0), peek(task, 1), peek(task, 2), peek(task, 3), thread)
                    atomic_add(done, 1)
            spins = 0
            while True:
                finished = atomic_load(done) - launch
                if finished == count:
                    break
                if finished < 0 or finished > count:
                    return
                spins += 1
                if spins < SPINS_BEFORE_YIELD:
                    pause()
                else:
                    yield_core()

    return run


def build_reset():
    """Compile the function that opens a launch: every word of a program becomes its number."""

    @cfunc(types.void(*[types.int64] * 3), error_model="numpy")
    def reset(words, count, launch):
        for index in range(count):
            atomic_store(words + index * LINE_BYTES, launch)

    return reset
