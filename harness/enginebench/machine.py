"""What this machine is, as stored with every Run: CPU, caches, memory, system, GPUs, packages.

Nothing that tells whose machine it is: no host name, user, address or serial number. Which part of
it an engine may use is `enginebench.hardware`'s; which cores `cpu:N` means is decided here.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from enginebench.hookspecs import PROJECT
from enginebench.nvml import describe_gpus

__all__ = ["fingerprint", "package_versions", "pick_cores"]

_PACKAGES = (
    "enginebench torch triton numba llvmlite numpy pandas pyarrow psutil msgspec locust gevent "
    "starlette uvicorn uvloop httptools tokenizers transformers safetensors accelerate vllm sglang "
    "xllamacpp llama-cpp-python nvidia-ml-py"
).split()
_TELLING_FEATURES = re.compile(
    r"sse4_2|avx\w*|fma|f16c|bmi2|amx\w*|asimd\w*|neon|sve\w*|i8mm|bf16|fphp|hypervisor"
)
_CPU_FOLDER = Path("/sys/devices/system/cpu")


def fingerprint() -> dict[str, Any]:
    """The machine as plain data; what cannot be found out is None or left out."""
    import psutil

    return {
        "cpu": _cpu(),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": _cgroup_number("memory.max"),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gpus": describe_gpus(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that matter, those of plugins included; imports none."""
    plugins = {point.dist.name for point in entry_points(group=PROJECT) if point.dist}
    found: dict[str, str] = {}
    for name in sorted({*_PACKAGES, *plugins}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def pick_cores(count: int) -> tuple[int, ...]:
    """The cores that `cpu:count` means: of those we may use, one thread of each core first."""
    usable = sorted(os.sched_getaffinity(0))
    assert 1 <= count <= len(usable), f"cpu:{count} on {len(usable)} cores"
    return tuple(sorted(sorted(usable, key=lambda core: (_sibling_rank(core), core))[:count]))


def _sibling_rank(core: int) -> int:
    """0 for the first hardware thread of its core, 1 for the second."""
    siblings = _text(_CPU_FOLDER / f"cpu{core}/topology/thread_siblings_list")
    return _expand(siblings).index(core) if siblings else 0


def _expand(text: str) -> Sequence[int]:
    """`0,4-5` as numbers."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _cpu() -> dict[str, Any]:
    import psutil

    told = _cpuinfo()
    flags = (told.get("flags") or told.get("Features") or "").split()
    frequency = psutil.cpu_freq()
    return {
        "model": told.get("model name") or platform.processor() or None,
        "architecture": platform.machine(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "quota_cores": _cpu_quota(),
        "max_mhz": (frequency.max or None) if frequency else None,
        "caches": _caches(),
        "features": sorted(flag for flag in flags if _TELLING_FEATURES.fullmatch(flag)),
    }


def _cpuinfo() -> Mapping[str, str]:
    """The first processor's entry."""
    entry = _text(Path("/proc/cpuinfo")).partition("\n\n")[0]
    pairs = (line.partition(":") for line in entry.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, int]:
    """Bytes of each cache that core 0 sees: {"L1d": 32768, "L2": 1048576}."""
    found: dict[str, int] = {}
    for folder in sorted(_CPU_FOLDER.glob("cpu0/cache/index*")):
        level, kind, size = (_text(folder / name) for name in ("level", "type", "size"))
        letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
        if size.endswith("K"):
            found[f"L{level}{letter}"] = int(size[:-1]) * 1024
    return found


def _cpu_quota() -> float | None:
    """How many cores' worth of time a container may use; None: no limit."""
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _cgroup_number(name: str) -> int | None:
    text = _text(Path("/sys/fs/cgroup") / name)
    return int(text) if text.isdecimal() else None


def _os_name() -> str:
    if sys.platform != "linux":
        return f"{platform.system()} {platform.release()}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return "Linux"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # this system does not tell
        return ""
