"""How options spread an engine over processes and GPUs. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from enginebench.errors import UsageError
from enginebench.types import Hardware, OptionValue
from enginebench_openai import Layout
from enginebench_paged.parallel.place import torchrun_place

__all__ = ["layout", "spread"]


def layout(options: Mapping[str, OptionValue]) -> Layout:
    """What the server has to know of it; UsageError for counts that contradict torchrun's."""
    ranks, replicas = _count(options, "tensor_parallel"), _count(options, "replicas") or 1
    place = torchrun_place()
    if place is not None:
        if replicas > 1:
            raise UsageError("replicas and torchrun do not go together: start a server for each")
        if ranks not in (None, place.count):
            raise UsageError(
                f"tensor_parallel is {ranks}, and torchrun has started {place.count} processes;"
                " leave tensor_parallel out"
            )
        ranks = place.count
    ranks = ranks or 1
    return Layout(replicas=replicas, processes=ranks, own_process=ranks > 1)


def spread(options: Mapping[str, OptionValue], hardware: Hardware) -> Mapping[str, OptionValue]:
    """The options with `tensor_parallel` made definite, so that all GPUs of `hardware` are used."""
    count = len(hardware.gpus)
    if not count:
        return options
    ranks, replicas = _count(options, "tensor_parallel"), _count(options, "replicas") or 1
    ranks = ranks or max(1, count // replicas)
    if ranks * replicas != count:
        raise UsageError(
            f"{hardware} names {count} GPUs, and tensor_parallel={ranks} with replicas={replicas}"
            f" takes {ranks * replicas}; name as many as are used"
        )
    return options if ranks == 1 else {**options, "tensor_parallel": ranks}


def _count(options: Mapping[str, OptionValue], name: str) -> int | None:
    value = cast("int | None", options.get(name))
    if value is not None and value < 1:
        raise UsageError(f"{name} is {value}; it must be at least 1")
    return value
