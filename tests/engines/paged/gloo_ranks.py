"""Ranks for tests: threads of this process that compute one model together, over gloo."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore, PrefixStore, ProcessGroupGloo

from enginebench_paged.parallel.ranks import Ranks

T = TypeVar("T")
_GLOO = distributed.ProcessGroup.BackendType.GLOO
_PATIENCE = timedelta(seconds=60)


def on_ranks(count: int, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` returns on each of `count` ranks; the first error of any is raised."""
    store, found, errors = HashStore(), {}, []

    def run(rank: int) -> None:
        try:
            found[rank] = work(_ranks(store, rank, count))
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [found[rank] for rank in range(count)]


def _ranks(store: HashStore, rank: int, count: int) -> Ranks:
    groups = [_group(PrefixStore(name, store), rank, count) for name in ("device", "hosts")]
    return Ranks(rank, count, 0, count, *groups)


def _group(store: PrefixStore, rank: int, count: int) -> distributed.ProcessGroup:
    group = distributed.ProcessGroup(store, rank, count)
    group._set_default_backend(_GLOO)
    backend = ProcessGroupGloo(store, rank, count, _PATIENCE)
    group._register_backend(torch.device("cpu"), _GLOO, backend)
    return group
