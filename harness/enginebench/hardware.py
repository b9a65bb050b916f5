"""How `--hardware` is written, and whether this machine has what it asks for.

    cpu:2         pinned to two cores                cpu           all cores
    cuda:0        one GPU                            cuda:0,1      two GPUs, one entry
    cuda:0+cpu:8  one GPU and eight cores            cpu:1,cuda:0  two entries, two sets of cells

A comma before a number goes on with the devices of the `cuda:` before it; any other comma starts
the next entry. What a machine has beyond the count of cores and GPUs is `enginebench.machine`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from enginebench.errors import UsageError
from enginebench.nvml import gpu_session
from enginebench.types import Hardware

__all__ = ["Capacity", "default_hardware", "parse_hardware", "this_capacity"]

_SYNTAX = "write cpu, cpu:2, cuda:0, cuda:0,1 or cuda:0+cpu:8"
_NEXT_ENTRY = re.compile(r",(?!\s*\d)")
_PART = re.compile(r"(?P<kind>cpu|cuda)(?::(?P<numbers>[0-9]{1,9}(?:\s*,\s*[0-9]{1,9})*))?")


@dataclass(frozen=True, slots=True)
class Capacity:
    """What entries are checked against: usable cores, and the indices of usable GPUs."""

    cores: int
    gpus: tuple[int, ...] = ()


def parse_hardware(text: str, capacity: Capacity) -> tuple[Hardware, ...]:
    """The entries of `text`, everything written out; raises UsageError for what is not there."""
    entries = tuple(_entry(part.strip(), capacity) for part in _NEXT_ENTRY.split(text))
    for entry in entries:
        if entries.count(entry) > 1:
            raise UsageError(f"--hardware {text!r} names {entry} twice; remove one of them")
    return entries


def default_hardware(capacity: Capacity) -> Hardware:
    """The first GPU where there is one, else all cores."""
    if capacity.gpus:
        return Hardware(gpus=capacity.gpus[:1])
    return Hardware(cpu_threads=capacity.cores)


def this_capacity() -> Capacity:
    """The cores that this process may use, and the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    return Capacity(len(os.sched_getaffinity(0)), _usable_gpus(_count_gpus()))


def _entry(text: str, capacity: Capacity) -> Hardware:
    cpu_threads: int | None = None
    gpus: tuple[int, ...] = ()
    for part in text.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"--hardware: cannot read {text!r}; {_SYNTAX}")
        numbers = tuple(int(number) for number in (match["numbers"] or "").split(",") if number)
        if match["kind"] == "cpu" and cpu_threads is None:
            cpu_threads = _threads(text, numbers, capacity)
        elif match["kind"] == "cuda" and not gpus:
            gpus = _devices(text, numbers, capacity)
        else:
            raise UsageError(f"--hardware: {text!r} names {match['kind']} twice; {_SYNTAX}")
    return Hardware(cpu_threads, gpus)


def _threads(text: str, numbers: Sequence[int], capacity: Capacity) -> int:
    if not numbers:
        return capacity.cores
    if len(numbers) > 1:
        listed = ",".join(f"cpu:{number}" for number in numbers)
        raise UsageError(f"--hardware: {text!r} gives cpu several counts; write {listed}")
    if not 1 <= numbers[0] <= capacity.cores:
        raise UsageError(
            f"--hardware: {text!r} asks for {numbers[0]} cores, this machine has "
            f"{capacity.cores}; use cpu:1 to cpu:{capacity.cores}"
        )
    return numbers[0]


def _devices(text: str, numbers: tuple[int, ...], capacity: Capacity) -> tuple[int, ...]:
    if not capacity.gpus:
        raise UsageError(
            f"--hardware: {text!r} asks for a GPU, this machine has none that NVML and "
            "CUDA_VISIBLE_DEVICES show; use cpu"
        )
    available = ", ".join(f"cuda:{gpu}" for gpu in capacity.gpus)
    if not numbers:
        raise UsageError(f"--hardware: {text!r} does not say which GPU; there is {available}")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--hardware: {text!r} names a GPU twice; name each once")
    if missing := [number for number in numbers if number not in capacity.gpus]:
        raise UsageError(f"--hardware: {text!r}: there is no cuda:{missing[0]}, only {available}")
    return numbers


def _count_gpus() -> int:
    with gpu_session() as gpus:
        return len(gpus)


def _usable_gpus(count: int) -> tuple[int, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    everything = tuple(range(count))
    if visible is None:
        return everything
    chosen = [part.strip() for part in visible.split(",") if part.strip()]
    if not all(part.isdecimal() for part in chosen):
        return everything  # UUIDs: which index each has is the driver's affair
    return tuple(gpu for gpu in everything if str(gpu) in chosen)
