"""Where figures come from, in words: the machine, the versions, the command that repeats a Run.

Machine facts are shown as they were stored, whatever their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enginebench.results import RunInfo
from enginebench_reports.quantities import amount, quantity

__all__ = ["day", "facts", "machine_line"]


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in one line: CPU, cores, memory, GPUs; what is unknown is left out."""
    return " · ".join(_parts(machine))


def facts(values: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Nested facts as (name, text) pairs: `cpu model`, `cpu caches L2`; empty ones are left out.

    The machine's ceilings are a line for each hardware entry.
    """
    others = {name: value for name, value in values.items() if name != "ceilings"}
    kept = values.get("ceilings")
    return [*_flat("", others), *(_ceilings(kept) if isinstance(kept, Mapping) else ())]


def _ceilings(kept: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for hardware, found in kept.items():
        rates = [f"reads {rate / 1e9:,.1f} GB/s" for _, rate in found["read_bytes_per_s"][-1:]]
        operations = found["operations_per_s"].items()
        rates += [f"{kind} {rate / 1e9:,.0f} Gop/s" for kind, rate in operations]
        yield f"ceilings {hardware}", f"{', '.join(rates)} ({found['measured_at'][:10]})"


def day(run: RunInfo) -> str:
    """The date of a Run, or what stands in its place."""
    found = re.match(r"\d{4}-\d{2}-\d{2}", run.created_at)
    return found[0] if found else run.created_at


def _parts(machine: Mapping[str, Any]) -> Iterator[str]:
    cpu = machine.get("cpu")
    if isinstance(cpu, Mapping):
        if cpu.get("model"):
            yield str(cpu["model"])
        if cores := cpu.get("usable_cores") or cpu.get("logical_cores"):
            yield f"{cores} cores"
    if isinstance(memory := machine.get("memory_bytes"), int):
        yield f"{quantity(memory, 'bytes')} memory"
    gpus = [gpu for gpu in machine.get("gpus") or () if isinstance(gpu, Mapping)]
    names = [str(gpu.get("name", "GPU")) for gpu in gpus]
    for name in dict.fromkeys(names):
        count = names.count(name)
        yield f"{count}x {name}" if count > 1 else name


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix} {key}".strip(), inner)
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        for place, each in enumerate(value):
            yield from _flat(f"{prefix} {place}", each)
    elif value not in (None, "", [], ()):
        yield _named(prefix, value)


def _named(name: str, value: Any) -> tuple[str, str]:
    """Units move from the name to the figure: `memory_bytes` 17179869184 is `memory` 17.2 GB."""
    if isinstance(value, list | tuple):
        return name.replace("_", " "), ", ".join(map(str, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_bytes") or " caches " in f" {name} ":
            return name.removesuffix("_bytes").replace("_", " "), quantity(value, "bytes")
        return name.replace("_", " "), amount(value) if isinstance(value, float) else str(value)
    return name.replace("_", " "), str(value)
