"""Where ranks find each other: at a port of this machine, or where torchrun's environment says."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final

import torch
from torch import distributed
from torch._C._distributed_c10d import Store, TCPStore

from enginebench_paged.parallel.place import Place
from enginebench_paged.parallel.ranks import Ranks

__all__ = ["join", "meeting_point"]

_HOST: Final = "127.0.0.1"
_PATIENCE: Final = timedelta(days=365)  # an engine may be idle for long; who dies is noticed anyway


def meeting_point(count: int, port: int | None = None) -> TCPStore:
    """The first rank opens one, at a free port; the others are told which."""
    opens = port is None
    return TCPStore(_HOST, port or 0, count, is_master=opens, wait_for_workers=not opens)


def join(place: Place, store: Store | None) -> Ranks:
    """Meet the others, at torchrun's store if none is given; returns when all are there."""
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # multicast is not to be had on every host
    device: torch.device | None = None
    if torch.cuda.is_available():
        device = torch.device("cuda", place.local)
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "gloo" if device is None else "nccl",
        store=store,
        rank=place.rank,
        world_size=place.count,
        device_id=device,
    )
    hosts = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    return Ranks(place.rank, place.count, place.local, place.here, distributed.group.WORLD, hosts)
