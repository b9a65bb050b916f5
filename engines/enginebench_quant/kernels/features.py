"""Which instructions this CPU has, as one of a few levels that the kernels are written for.

A level decides the width of the vectors and how four 8-bit products are summed:

    avx512_vnni   16 lanes, vpdpbusd
    avx2          8 lanes, vpmaddubsw + vpmaddwd
    plain         8 lanes, no instruction named: right anywhere, and slow
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass

import llvmlite.binding as llvm

__all__ = ["LEVELS", "CpuLevel", "best_level", "choose_level", "supported_levels"]


@dataclass(frozen=True, slots=True)
class CpuLevel:
    """A set of instructions: its name, vector width in 32-bit lanes, and the features it needs."""

    name: str
    lanes: int
    needs: frozenset[str]


LEVELS = {
    level.name: level
    for level in (
        CpuLevel(
            "avx512_vnni", 16, frozenset({"avx512f", "avx512bw", "avx512vnni", "f16c", "fma"})
        ),
        CpuLevel("avx2", 8, frozenset({"avx2", "fma", "f16c"})),
        CpuLevel("plain", 8, frozenset()),
    )
}


@functools.cache
def _host_features() -> frozenset[str]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


def supported_levels() -> list[CpuLevel]:
    """The levels that this CPU can run, best first; "plain" always."""
    return [level for level in LEVELS.values() if level.needs <= _host_features()]


def best_level() -> CpuLevel:
    """The fastest level that this CPU can run."""
    return supported_levels()[0]


def choose_level(name: str) -> CpuLevel:
    """The level called `name`, "auto" for the best one; ValueError if this CPU cannot run it."""
    if name == "auto":
        return best_level()
    here = {level.name: level for level in supported_levels()}
    if name not in here:
        raise ValueError(f"cpu level {name!r} cannot run here (can: auto, {', '.join(here)})")
    return here[name]
