"""What the device can do at most, as torch's own kernels reach it: `python -m
enginebench_paged.calibrate`.

Prints one line of JSON, as `enginebench.ceilings` describes it: of the first GPU that the process
sees, else of the CPU. Types that the device cannot multiply are left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from enginebench_paged.threads import thread_count

__all__ = ["main"]

ROUNDS: Final = 5
PIECE_S: Final = 0.06
"""How long one measurement takes, about."""
LONG_S: Final = 0.5
"""What takes longer has no kernel of its own here, and is not repeated."""
_TYPES: Final = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Device:
    """A device and its clock."""

    def __init__(self) -> None:
        self.is_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.is_gpu else "cpu")
        # Bytes that are read again and again: up to well past the last cache.
        powers = range(25, 34, 2) if self.is_gpu else range(25, 30, 2)
        self.sizes = tuple(1 << power for power in powers)
        self.sides = (4096, 8192) if self.is_gpu else (512, 1024)

    def rates(self, work: Callable[[], object], amount: float) -> list[float]:
        """`amount` a second, done by each call of `work`."""
        self._seconds(work, 1)
        took = self._seconds(work, 1)
        if took > LONG_S:
            return [amount / took]
        times = max(1, int(PIECE_S / max(took, 1e-6)))
        return [amount * times / self._seconds(work, times) for _ in range(ROUNDS)]

    def _seconds(self, work: Callable[[], object], times: int) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(times):
            work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()


def read_rates(device: Device) -> Iterator[tuple[int, list[float]]]:
    """Bytes a second, the better of summing numbers and multiplying a matrix with a vector."""
    for size in device.sizes:
        rows = size // (4 * 4096)
        try:
            matrix = torch.ones(rows, 4096, device=device.device)
        except torch.OutOfMemoryError:
            return
        vector = torch.ones(4096, device=device.device)
        sums = device.rates(lambda m=matrix: m.sum(), size)  # type: ignore[misc]
        products = device.rates(lambda m=matrix, v=vector: torch.mv(m, v), size)  # type: ignore[misc]
        yield size, max(sums, products, key=max)


def operation_rates(device: Device) -> dict[str, list[float]]:
    """Operations a second by type, of the better size; a multiplication and an addition are two."""
    found: dict[str, list[float]] = {}
    for name in (*_TYPES, "int8", "fp8"):
        for side in device.sides:
            multiply = _product(name, side, device.device)
            try:
                rates = device.rates(multiply, 2.0 * side**3)
            except (RuntimeError, NotImplementedError):  # no kernel for this type here
                break
            found[name] = max(found.get(name, rates), rates, key=max)
    return found


def _product(name: str, side: int, device: torch.device) -> Callable[[], Tensor]:
    if name == "int8":
        ones = torch.ones(side, side, dtype=torch.int8, device=device)
        return lambda: torch._int_mm(ones, ones.t())
    if name == "fp8":
        ones = torch.ones(side, side, device=device).to(torch.float8_e4m3fn)
        scale = torch.ones((), device=device)
        return lambda: torch._scaled_mm(ones, ones.t(), scale, scale, out_dtype=torch.bfloat16)
    matrix = torch.ones(side, side, dtype=_TYPES[name], device=device)
    return lambda: matrix @ matrix


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(thread_count())
    torch.backends.cuda.matmul.allow_tf32 = True  # what an engine may use, a ceiling must
    device = Device()
    with torch.inference_mode():
        reads, operations = list(read_rates(device)), operation_rates(device)
    print(json.dumps({"read_bytes_per_s": reads, "operations_per_s": operations}))


if __name__ == "__main__":
    main()
