"""A program of kernels, run by several threads that share its tasks: one compiled call per thread.

A program is a list of phases, a phase a list of tasks (kernel, arguments, begin, end) in any
order. Threads claim tasks one by one, and a phase is over when its tasks are done, not when every
thread has arrived: a thread that lost its core holds up nobody unless it was in the middle of a
task. Waiting spins for a bounded time, then yields the core.

Every phase has two words, each on a cache line of its own: tickets given out and tasks done, both
with the number of the launch in their upper half. A thread that wakes up in an old launch finds
another number there and leaves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue

import numpy as np

from enginebench_quant.kernels.arguments import LINE_BYTES

__all__ = ["TASKS_PER_THREAD", "Crew", "Program", "Task", "split_tasks"]

TASKS_PER_THREAD = 4  # so that a thread that is late leaves its share to the others


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of one kernel's work. `arguments` is kept alive by the program."""

    kernel: int
    arguments: np.ndarray
    begin: int
    end: int


def split_tasks(kernel: int, arguments: np.ndarray, count: int, wanted: int) -> list[Task]:
    """`count` units of work as about `wanted` tasks, one at least."""
    bounds = np.linspace(0, count, min(count, max(1, wanted)) + 1).astype(int).tolist()
    return [Task(kernel, arguments, begin, end) for begin, end in pairwise(bounds)]


class Program:
    """Phases of tasks, laid out for the interpreter; immutable once made."""

    def __init__(self, phases: Sequence[Sequence[Task]]) -> None:
        tasks = [task for phase in phases for task in phase]
        self._arguments = [task.arguments for task in tasks]
        self._tasks = np.array(
            [(t.kernel, t.arguments.ctypes.data, t.begin, t.end) for t in tasks], np.int64
        )
        self._bounds = np.cumsum([0] + [len(phase) for phase in phases], dtype=np.int64)
        self._raw_words = np.zeros(2 * LINE_BYTES * len(phases) + LINE_BYTES, np.uint8)
        self.phases = len(phases)
        start = self._raw_words.ctypes.data
        self.words = start + -start % LINE_BYTES
        self.bounds = self._bounds.ctypes.data
        self.tasks = self._tasks.ctypes.data


class Crew:
    """The calling thread and `threads - 1` helpers that run programs together."""

    def __init__(
        self, threads: int, interpreter: tuple[Callable[..., None], Callable[..., None]]
    ) -> None:
        self.threads = threads
        self._run_program, self._reset = interpreter
        self._launch = 0
        self._queues: list[SimpleQueue[tuple[Program, int] | None]] = [
            SimpleQueue() for _ in range(threads - 1)
        ]
        self._helpers = [
            threading.Thread(target=self._help, args=(queue, index + 1), daemon=True)
            for index, queue in enumerate(self._queues)
        ]
        for helper in self._helpers:
            helper.start()

    def run(self, program: Program) -> None:
        """Run all phases of `program`; returns when the last task is done."""
        self._launch += 1
        launch = self._launch << 32
        self._reset(program.words, 2 * program.phases, launch)
        for queue in self._queues:
            queue.put((program, launch))
        self._work(program, launch, 0)

    def _work(self, program: Program, launch: int, thread: int) -> None:
        self._run_program(
            program.bounds, program.tasks, program.words, program.phases, launch, thread
        )

    def _help(self, queue: SimpleQueue[tuple[Program, int] | None], thread: int) -> None:
        while (job := queue.get()) is not None:
            self._work(*job, thread)

    def close(self) -> None:
        """Stop the helpers; the crew cannot run any more."""
        for queue in self._queues:
            queue.put(None)
        for helper in self._helpers:
            helper.join()
