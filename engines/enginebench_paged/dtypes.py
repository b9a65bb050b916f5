"""Which number format a CPU multiplies faster: bf16 halves the bytes, but not every CPU has it.

With AVX512-BF16 or AMX bf16 wins at every batch size; without them torch emulates it, which loses
badly on batches. So it is measured, on products of the model's own shape, in about 0.3 s: on one
thread and by the thread's own CPU time, which other processes disturb least.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["faster_cpu_dtype"]

_BYTES = 48 << 20  # of f32 weights: more than the caches keep between two passes
_BATCHES = (1, 16)
_ROUNDS = 3


def faster_cpu_dtype(hidden_size: int, intermediate_size: int) -> torch.dtype:
    """bf16 or f32: the one with the smaller product of times for one row and for sixteen."""
    count = max(1, _BYTES // (4 * hidden_size * intermediate_size))
    wide = [torch.full((intermediate_size, hidden_size), 0.01) for _ in range(count)]
    weights = {torch.float32: wide, torch.bfloat16: [w.bfloat16() for w in wide]}
    cost = dict.fromkeys(weights, 1.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch in _BATCHES:
        for dtype, seconds in _race(weights, batch).items():
            cost[dtype] *= seconds
    torch.set_num_threads(threads)
    return min(cost, key=lambda dtype: cost[dtype])


def _race(weights: dict[torch.dtype, list[Tensor]], batch: int) -> dict[torch.dtype, float]:
    """The best time of each, taken in turn, so that noise hits both."""
    best = dict.fromkeys(weights, float("inf"))
    with torch.inference_mode():
        for _ in range(_ROUNDS + 1):  # the first round warms up and seldom is the best
            for dtype, matrices in weights.items():
                x = torch.ones(batch, matrices[0].shape[1], dtype=dtype)
                start = time.thread_time()
                for matrix in matrices:
                    functional.linear(x, matrix)
                best[dtype] = min(best[dtype], time.thread_time() - start)
    return best
