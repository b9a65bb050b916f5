"""How an engine's options spread it over processes: what the server has to know of that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from enginebench.errors import UsageError

__all__ = ["Layout", "claim_share", "sees_gpu"]

_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`replicas` whole engines, each of which computes with `processes` processes, one a GPU.

    `own_process`: the engine cannot run in a thread of the server.
    """

    replicas: int = 1
    processes: int = 1
    own_process: bool = False

    @property
    def apart(self) -> bool:
        """Whether engines need processes of their own."""
        return self.own_process or self.replicas > 1


def claim_share(layout: Layout, replica: int) -> None:
    """Leave this process, before it loads anything, the GPUs or cores that are the replica's."""
    if layout.replicas == 1:
        return
    gpus, need = _visible_gpus(), layout.processes
    if gpus:
        if len(gpus) < layout.replicas * need:
            raise UsageError(
                f"{layout.replicas} replicas of {need} GPUs need {layout.replicas * need}, and"
                f" {len(gpus)} are visible; lower replicas, or name more in --hardware"
            )
        own = gpus[replica * need : (replica + 1) * need]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return
    cores = sorted(os.sched_getaffinity(0))
    each = max(1, len(cores) // layout.replicas)
    first = replica * each % len(cores)
    os.sched_setaffinity(0, cores[first : first + each])
    os.environ[_THREADS] = str(each)


def sees_gpu() -> bool:
    """Whether this process may use an NVIDIA GPU, asked without loading anything."""
    return bool(_visible_gpus())


def _visible_gpus() -> Sequence[str]:
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not there or shown == "-1":
        return ()
    if shown is None:
        return [str(number) for number in range(there)]
    return [name.strip() for name in shown.split(",") if name.strip()]
