"""Which layers go to which device: the first to the CPU, the others to GPUs in their order.

    split_layers([100] * 24, ends=[50], room=[1_500], wanted=None)    # Split(cpu=10, gpus=(14,))

Layers are given in bytes, cache included. The last GPU also holds the head, the first one the
embeddings if no layer stays on the CPU. Knows numbers only: what is free, and what a layer takes,
is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Costs", "Split", "split_layers"]

HALVINGS = 40  # until shares of the devices' memory differ by less than a byte


@dataclass(frozen=True, slots=True)
class Costs:
    """What parts of a model take on a GPU, in bytes. `tied`: head and embeddings are one."""

    layers: Sequence[int]
    head: int
    embedding: int
    tied: bool


@dataclass(frozen=True, slots=True)
class Split:
    """How many of the first layers stay on the CPU, and how many of the rest each GPU gets."""

    cpu: int
    gpus: tuple[int, ...]


def split_layers(costs: Costs, room: Sequence[int], wanted: int | None) -> Split | None:
    """`wanted` layers (None: as many as fit) on GPUs with `room` bytes each, in proportion to it.

    None where so many do not fit. A GPU that gets no layer is left out of the work.
    """
    counts = range(len(costs.layers), 0, -1) if wanted is None else (wanted,)
    for count in counts:
        split = _balanced(costs, room, count)
        if split is not None:
            return split
    return Split(len(costs.layers), (0,) * len(room)) if wanted in (None, 0) else None


def _balanced(costs: Costs, room: Sequence[int], count: int) -> Split | None:
    """With the smallest share of every device's room that holds `count` layers."""
    low, high, best = 0.0, 1.0, _filled(costs, room, count)
    for _ in range(HALVINGS if best is not None else 0):
        middle = (low + high) / 2
        split = _filled(costs, [int(free * middle) for free in room], count)
        low, high, best = (middle, high, best) if split is None else (low, middle, split)
    return best


def _filled(costs: Costs, room: Sequence[int], count: int) -> Split | None:
    """The last layer to the last device, and on towards the first; None if some are left over."""
    n_layers = len(costs.layers)
    left, taken = list(room), [0] * len(room)
    device = last = len(room) - 1
    left[last] -= costs.head
    for layer in range(n_layers - 1, n_layers - count - 1, -1):
        while device >= 0 and left[device] < _need(costs, layer, on_last=device == last):
            device -= 1
        if device < 0:
            return None
        left[device] -= _need(costs, layer, on_last=device == last)
        taken[device] += 1
    return Split(n_layers - count, tuple(taken)) if left[last] >= 0 else None


def _need(costs: Costs, layer: int, *, on_last: bool) -> int:
    """Of a layer, and of the embeddings that the first one comes with."""
    is_there = layer > 0 or (costs.tied and on_last)
    return costs.layers[layer] + (0 if is_there else costs.embedding)
