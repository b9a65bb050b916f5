"""CPU, memory, threads and context switches of a process and all its descendants, over time.

Cheap figures (CPU, RSS, threads) are read at every sample; looking for new processes, context
switches and PSS cost more and are read at every `SLOW_EVERY`-th. A process that ends keeps the CPU
time that it had, so that the sum never falls.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

__all__ = ["SLOW_EVERY", "ProcessTree"]

SLOW_EVERY = 4
_PSS_WORTH_S = 0.02  # reading PSS walks page tables: not again if it took longer than this


class ProcessTree:
    """The tree below `pid`, sampled again and again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._processes: list[psutil.Process] = []
        self._cpu_s: dict[psutil.Process, float] = {}
        self._samples = 0
        self._last: tuple[float, float] | None = None
        self._pss_is_cheap = True

    def sample(self) -> dict[str, float | int]:
        """One reading; empty once the process is gone. Keys as the columns of telemetry."""
        slow = self._samples % SLOW_EVERY == 0
        self._samples += 1
        if slow:
            self._processes = _tree(self._pid)
        readings = [reading for each in self._processes if (reading := self._read(each))]
        if not readings:
            return {}
        found = _sums(readings) | {"processes": len(readings)} | self._cpu()
        return found | self._slow() if slow else found

    def _read(self, process: psutil.Process) -> Mapping[str, int] | None:
        try:
            with process.oneshot():
                times, memory = process.cpu_times(), process.memory_info()
                threads = process.num_threads()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        self._cpu_s[process] = times.user + times.system
        shared = getattr(memory, "shared", 0)
        return {
            "rss_bytes": memory.rss,
            "rss_anon_bytes": memory.rss - shared,
            "rss_file_bytes": shared,
            "threads": threads,
        }

    def _cpu(self) -> dict[str, float | int]:
        now, total = time.monotonic(), sum(self._cpu_s.values())
        last, self._last = self._last, (now, total)
        found: dict[str, float | int] = {"cpu_s": total}
        if last is not None and now > last[0]:
            found["cpu_percent"] = 100 * (total - last[1]) / (now - last[0])
        return found

    def _slow(self) -> dict[str, float | int]:
        pids = [process.pid for process in self._processes]
        return _switches(pids) | self._pss(pids)

    def _pss(self, pids: Iterable[int]) -> dict[str, float | int]:
        if not self._pss_is_cheap:
            return {}
        start = time.monotonic()
        values = [_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids]
        self._pss_is_cheap = time.monotonic() - start < _PSS_WORTH_S
        known = [value for value in values if value is not None]
        return {"pss_bytes": 1024 * sum(known)} if known else {}


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _sums(readings: Iterable[Mapping[str, int]]) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    for reading in readings:
        for name, value in reading.items():
            found[name] = found.get(name, 0) + value
    return found


def _switches(pids: Iterable[int]) -> dict[str, float | int]:
    """Summed over all threads: /proc/PID/status has those of the first thread only."""
    voluntary = involuntary = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            voluntary += _field(status, "voluntary_ctxt_switches:") or 0
            involuntary += _field(status, "nonvoluntary_ctxt_switches:") or 0
    if not voluntary + involuntary:
        return {}
    return {"voluntary_switches": voluntary, "involuntary_switches": involuntary}


def _field(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    except OSError:  # ended, or not ours to look at
        return None
    return None
