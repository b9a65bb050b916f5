"""The processes that compute one model together, seen from one of them.

Every rank holds a part of each matrix and computes the same steps in the same order; what a part
yields is summed or put side by side, over NCCL between GPUs (inside CUDA graphs too), over gloo
between CPU processes. One rank alone, the usual case, communicates with nobody.

Knows tensors and processes, but neither models nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import functional

__all__ = ["ALONE", "Ranks"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank `rank` of `count`; `place` of the `here` that are on this machine.

    `device_group` carries what steps compute, `host_group` (always gloo) what hosts agree upon.
    """

    rank: int = 0
    count: int = 1
    place: int = 0
    here: int = 1
    device_group: distributed.ProcessGroup | None = None
    host_group: distributed.ProcessGroup | None = None

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every rank's `x`, in its place; bit for bit the same on all of them."""
        if self.count > 1:
            distributed.all_reduce(x, group=self.device_group)
        return x

    def side_by_side(self, x: Tensor, columns: int) -> Tensor:
        """Every rank's columns, (rows, columns): all ranks but the last have equally many, rounded
        up, of `x` (rows, own columns).
        """
        if self.count == 1:
            return x
        own = -(-columns // self.count)
        x = functional.pad(x, (0, own - x.shape[1])) if x.shape[1] < own else x.contiguous()
        parts = list(x.new_empty((self.count, *x.shape)))
        distributed.all_gather(parts, x, group=self.device_group)
        parts[-1] = parts[-1][:, : columns - own * (self.count - 1)]
        return torch.cat(parts, dim=1)

    def first(self, value: T) -> T:
        """What the first rank says."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, group_src=0, group=self.host_group)
        return held[0]

    def least(self, number: int) -> int:
        """The smallest number that any rank says."""
        if self.count == 1:
            return number
        held = torch.tensor([number])
        distributed.all_reduce(held, distributed.ReduceOp.MIN, group=self.host_group)
        return int(held)


ALONE = Ranks()
