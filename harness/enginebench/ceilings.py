"""What a machine can do at most, measured once and kept: the ceilings that speeds are held against.

A calibrator (see `Calibrator` in `enginebench.types`) prints one line of JSON:

    {"read_bytes_per_s": [[BYTES, [RATE, ...]], ...], "operations_per_s": {"f32": [RATE, ...], ...}}

`BYTES` is the size of what was read again and again, so that caches show; every `RATE` is one
round. A multiplication and an addition are two operations. Of several calibrators the best round
counts. Measures nothing itself: `enginebench.calibrating` does.
"""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from enginebench.atomic import write_json
from enginebench.machine import fingerprint
from enginebench.types import Hardware

__all__ = ["Ceilings", "Measured", "keep_ceilings", "kept_ceilings", "machine_key"]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of one hardware entry. `read_bytes_per_s` are (size, rate), sizes rising; `spread` is how far
    the median round stayed behind the best one, at worst: what the ceilings are uncertain by.
    """

    hardware: str
    read_bytes_per_s: tuple[tuple[int, float], ...]
    operations_per_s: Mapping[str, float]
    spread: float
    measured_at: str
    versions: Mapping[str, str]

    def read_rate(self, size_bytes: float) -> float | None:
        """At what rate `size_bytes` can be read again and again: that of the next smaller size."""
        smaller = [rate for size, rate in self.read_bytes_per_s if size <= size_bytes]
        rates = smaller[-1:] or [rate for _, rate in self.read_bytes_per_s[:1]]
        return rates[0] if rates else None


class Measured(msgspec.Struct, frozen=True):
    """What a calibrator printed."""

    read_bytes_per_s: list[tuple[int, list[float]]] = []
    operations_per_s: dict[str, list[float]] = {}

    def merged(self, other: Measured) -> Measured:
        """Of each figure the rounds that hold the best one."""
        reads = dict(self.read_bytes_per_s)
        for size, rounds in other.read_bytes_per_s:
            reads[size] = max(reads.get(size, rounds), rounds, key=max)
        operations = dict(self.operations_per_s)
        for kind, rounds in other.operations_per_s.items():
            operations[kind] = max(operations.get(kind, rounds), rounds, key=max)
        return Measured(sorted(reads.items()), operations)

    def ceilings(self, hardware: Hardware, at: str, versions: Mapping[str, str]) -> Ceilings:
        """The best round of each figure, times the GPUs of `hardware`, of which one was measured;
        caches never make a larger size faster than a smaller.
        """
        times = max(1, len(hardware.gpus))
        reads = [(size, times * max(rounds)) for size, rounds in sorted(self.read_bytes_per_s)]
        falling = [
            (size, max(r for _, r in reads[place:])) for place, (size, _) in enumerate(reads)
        ]
        rounds = [each for _, each in self.read_bytes_per_s] + [*self.operations_per_s.values()]
        return Ceilings(
            str(hardware),
            tuple(falling),
            {kind: times * max(each) for kind, each in sorted(self.operations_per_s.items())},
            max((_behind(each) for each in rounds), default=0.0),
            at,
            versions,
        )


def _behind(rounds: Sequence[float]) -> float:
    return 1 - statistics.median(rounds) / max(rounds)


def machine_key(machine: Mapping[str, Any], hardware: Hardware) -> str:
    """Equal for equal machines and entries: CPU, cores, GPUs; not for packages or the kernel."""
    cpu = machine.get("cpu") or {}
    facts = [cpu.get(name) for name in ("model", "usable_cores", "quota_cores", "caches")]
    gpus = [(gpu.get("name"), gpu.get("power_limit_w")) for gpu in machine.get("gpus") or ()]
    text = msgspec.json.encode([facts, gpus, str(hardware)], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:16]


def keep_ceilings(ceilings: Ceilings, hardware: Hardware) -> Path:
    """Keep them for this machine; returns the file."""
    path = _path(fingerprint(), hardware)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, ceilings)
    return path


def kept_ceilings(machine: Mapping[str, Any], hardware: Hardware) -> Ceilings | None:
    """Those that `bench calibrate` left; None if it was never run here, or its file is damaged."""
    try:
        return msgspec.json.decode(_path(machine, hardware).read_bytes(), type=Ceilings)
    except (OSError, msgspec.MsgspecError):
        return None


def _path(machine: Mapping[str, Any], hardware: Hardware) -> Path:
    chosen = os.environ.get("ENGINEBENCH_CACHE")
    folder = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("enginebench"))
    return folder / "ceilings" / f"{machine_key(machine, hardware)}.json"
