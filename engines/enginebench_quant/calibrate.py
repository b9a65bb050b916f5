"""What the CPU can do at most, by loops compiled for it: `python -m enginebench_quant.calibrate`.

Prints one line of JSON, as `enginebench.ceilings` describes it. Uses the cores that the process may
use, a thread each.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from enginebench_quant.kernels.ceilings import read_sum, spin
from enginebench_quant.kernels.features import best_level

__all__ = ["main"]

SIZES_BYTES: Final = tuple(1 << power for power in range(23, 30, 2))  # 8 MiB to 512 MiB
ROUNDS: Final = 5
PIECE_S: Final = 0.06
"""How long one measurement takes, about."""


class Crew:
    """The same work on every core, timed as a whole."""

    def __init__(self) -> None:
        self.threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.threads)

    def rates(self, work: Callable[[int, int], object], amount: float) -> list[float]:
        """`amount` a second and turn over all threads; `work(thread, turns)` does `turns` of it."""
        turns = 1
        while (took := self._seconds(work, turns)) < PIECE_S / 2:
            turns = max(turns + 1, int(turns * min(8.0, PIECE_S / max(took, 1e-6))))
        return [amount * turns / self._seconds(work, turns) for _ in range(ROUNDS)]

    def _seconds(self, work: Callable[[int, int], object], turns: int) -> float:
        start = time.perf_counter()
        list(self._pool.map(lambda thread: work(thread, turns), range(self.threads)))
        return time.perf_counter() - start


def read_rates(crew: Crew) -> dict[int, list[float]]:
    """Bytes a second by the size of what is read again and again."""
    values = np.arange(SIZES_BYTES[-1] // 8, dtype=np.int64)
    found = {}
    for size in SIZES_BYTES:
        parts = np.array_split(values[: size // 8], crew.threads)
        read_sum(parts[0][:1], 1)
        found[size] = crew.rates(lambda thread, turns, p=parts: read_sum(p[thread], turns), size)  # type: ignore[misc]
    return found


def operation_rates(crew: Crew) -> dict[str, list[float]]:
    """Operations a second by type; a multiplication and an addition are two."""
    found = {}
    for kind in ("f32", "int8"):
        run, operations = spin(kind, best_level())
        found[kind] = crew.rates(
            lambda _, turns, r=run: r(turns * 1000),  # type: ignore[misc]
            operations * 1000 * crew.threads,
        )
    return found


def main() -> None:
    """Measure and print."""
    crew = Crew()
    reads, operations = read_rates(crew), operation_rates(crew)
    print(json.dumps({"read_bytes_per_s": [*reads.items()], "operations_per_s": operations}))


if __name__ == "__main__":
    main()
