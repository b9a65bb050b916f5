"""Samples of what a cell costs while it runs: CPU, memory, threads and GPUs, a few times a second.

    with Sampler(gpus=(0,)) as sampler:
        sampler.watch_server(pid)
        ...
    sampler.samples          # one mapping a sample, keys as the columns of telemetry.parquet

Times are `time.monotonic_ns()`, the same clock as the driver's. `docs/run-folder.md` documents the
columns and their units. A thread of the harness takes the samples; it knows nothing of cells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import psutil

from enginebench.nvml import Gpu, GpuSample, gpu_session
from enginebench.process_tree import ProcessTree
from enginebench.scrape import Scraper

__all__ = ["Sampler"]


class Sampler:
    """Takes samples from entry to exit. What its thread raises is raised again at exit."""

    def __init__(self, gpus: Sequence[int] = (), interval_s: float = 0.25) -> None:
        self.samples: list[dict[str, Any]] = []
        self._gpus, self._interval_s = gpus, interval_s
        self._server: ProcessTree | None = None
        self._client: ProcessTree | None = None
        self._scraper: Scraper | None = None
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def watch_server(self, pid: int | None) -> None:
        """From now on `pid` and what it starts are the server; None: it is not ours to see."""
        self._server = None if pid is None else ProcessTree(pid)

    def watch_client(self, pid: int) -> None:
        """From now on `pid` and what it starts are the load driver."""
        self._client = ProcessTree(pid)

    def watch_metrics(self, scraper: Scraper) -> None:
        """From now on what `scraper` (which runs already) reads is in the samples."""
        self._scraper = scraper

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                gpus = stack.enter_context(gpu_session(self._gpus)) if self._gpus else ()
                psutil.cpu_percent()  # the first call only marks the start
                due = time.monotonic()
                while not self._stop.wait(max(0.0, due - time.monotonic())):
                    self.samples.append(self._sample(gpus))
                    due = max(due + self._interval_s, time.monotonic())
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that owns us
            self._error = error

    def _sample(self, gpus: Iterable[Gpu]) -> dict[str, Any]:
        sample: dict[str, Any] = {"t_ns": time.monotonic_ns()}
        sample["machine_memory_available_bytes"] = psutil.virtual_memory().available
        if self.samples:
            sample["machine_cpu_percent"] = psutil.cpu_percent()
        if self._server is not None:
            sample |= self._server.sample()
        if self._client is not None:
            sample |= _as_client(self._client.sample())
        if self._scraper is not None:
            sample |= self._scraper.take()
        return sample | _gpu_columns([gpu.sample() for gpu in gpus])


def _as_client(found: dict[str, float | int]) -> dict[str, float | int]:
    wanted = ("cpu_percent", "cpu_s", "rss_bytes")
    return {f"client_{name}": found[name] for name in wanted if name in found}


def _gpu_columns(samples: Sequence[GpuSample]) -> dict[str, Any]:
    if not samples:
        return {}
    return {
        "gpu_memory_bytes": _total(each.memory_bytes for each in samples),
        "gpu_utilization_percent": _mean(each.utilization_percent for each in samples),
        "gpu_power_w": _total(each.power_w for each in samples),
        "gpu_energy_j": _total(each.energy_j for each in samples),
        "gpu_sm_clock_mhz": _mean(each.sm_clock_mhz for each in samples),
        "gpu_memory_clock_mhz": _mean(each.memory_clock_mhz for each in samples),
        "gpu_temperature_c": max(_known(each.temperature_c for each in samples), default=None),
        "gpu_throttle_reasons": _any_bit(_known(each.throttle_reasons for each in samples)),
        "each_gpu_memory_bytes": [each.memory_bytes for each in samples],
        "each_gpu_utilization_percent": [each.utilization_percent for each in samples],
        "each_gpu_power_w": [each.power_w for each in samples],
    }


def _known(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _total(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) / len(known) if known else None


def _any_bit(values: Sequence[int]) -> int | None:
    result = 0
    for value in values:
        result |= value
    return result if values else None
