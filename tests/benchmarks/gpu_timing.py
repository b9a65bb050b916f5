"""Times launches on a GPU in a CUDA graph, over inputs that rotate so that no cache holds them."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from triton.errors import TritonError

L2_BYTES = 50 << 20
ROTATED_BYTES = 4 * L2_BYTES
FAILURES = (RuntimeError, ValueError, AssertionError, TritonError)  # of one candidate


@dataclass
class Bench:
    """In a warm pass every candidate is run once, to fill Triton's cache; nothing is timed."""

    warm: bool
    deadline: float
    failed: list[str] = field(default_factory=list)

    def time_us(self, calls: list[Callable[[], object]], least_calls: int = 24) -> float:
        """Median microseconds of one call; each of `calls` does the same work on other memory."""
        calls[0]()
        torch.cuda.synchronize()
        if self.warm:
            return 1.0
        repeats = -(-least_calls // len(calls))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                for call in calls:
                    call()
        graph.replay()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(7):
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3 / (repeats * len(calls)))
        return statistics.median(times)

    def best(
        self, candidates: Iterable[object], calls_of: Callable[[object], list[Callable[[], object]]]
    ) -> dict[object, float]:
        """Microseconds of each candidate that ran; one that fails is named and left out."""
        found = {}
        for candidate in candidates:
            if time.monotonic() > self.deadline:
                self.note("out of time before", candidate)
                break
            try:
                found[candidate] = self.time_us(calls_of(candidate))
            except FAILURES as error:
                self.note("failed", candidate, type(error).__name__, str(error)[:160])
        return found

    def note(self, *words: object) -> None:
        line = " ".join(map(str, words))
        if not self.warm and line not in self.failed:
            self.failed.append(line)
            print("  !", line, flush=True)


def lost_by(tables: list[dict[object, float]], candidate: object) -> float:
    """How much longer a candidate takes than the best of each workload, in the geometric mean."""
    return statistics.geometric_mean(t[candidate] / min(t.values()) for t in tables) - 1


def report_winner(bench: Bench, what: str, tables: list[dict[object, float]]) -> None:
    """Names the candidate that loses least over all workloads."""
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    if bench.warm or not shared:
        return
    best = min(shared, key=lambda c: lost_by(tables, c))
    lost = 100 * lost_by(tables, best)
    print(f"WINNER {what}: {best}  ({lost:.1f}% off the best of each workload)", flush=True)


@triton.jit
def _read_kernel(source, out, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + tl.program_id(0), tl.sum(tl.load(source + at), axis=0))


@triton.jit
def _nothing_kernel(out):
    pass


@dataclass(frozen=True)
class Ceilings:
    copy_gb_s: float
    read_gb_s: float
    bf16_tflop_s: float
    launch_us: float


def measure_ceilings() -> Ceilings:
    bench = Bench(False, float("inf"))
    source = torch.randint(0, 1 << 30, (1 << 29,), dtype=torch.int32, device="cuda")  # 2 GiB
    target = torch.empty_like(source)
    copy_us = bench.time_us([lambda: target.copy_(source)], 4)
    programs = source.numel() // 4096
    sums = torch.empty(programs, dtype=torch.int32, device="cuda")
    read_us = bench.time_us([lambda: _read_kernel[(programs,)](source, sums, BLOCK=4096)], 4)
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    product_us = bench.time_us([lambda: a @ b], 4)
    launch_us = bench.time_us([lambda: _nothing_kernel[(1,)](sums)], 200)
    size = source.numel() * 4
    rate = 2 * 8192**3 / product_us / 1e6
    return Ceilings(2 * size / copy_us / 1e3, size / read_us / 1e3, rate, launch_us)


def sets_to_rotate(bytes_each: float) -> int:
    return max(1, min(48, int(-(-ROTATED_BYTES // max(bytes_each, 1)))))


def share(gb_s: float, ceilings: Ceilings) -> str:
    return f"{gb_s:6.0f} GB/s {100 * gb_s / ceilings.read_gb_s:4.0f}%"
