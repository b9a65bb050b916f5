"""Which rank a process is. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Place", "torchrun_place"]


@dataclass(frozen=True, slots=True)
class Place:
    """Rank `rank` of `count`; number `local` of the `here` that are on this machine."""

    rank: int
    count: int
    local: int
    here: int


def torchrun_place() -> Place | None:
    """What torchrun told this process; None where somebody else started it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))
