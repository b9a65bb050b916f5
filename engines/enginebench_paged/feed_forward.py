"""What a layer does after attention: one gated pair of products, or experts chosen per token.

Experts: a router's softmax weighs all of them, a token takes the best few, and the products of all
tokens with all their experts are done in two grouped calls over rows sorted by expert. Nothing here
waits for the device, so that a step with experts can be captured in a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from enginebench_models import Experts
from enginebench_paged.kernels import ops
from enginebench_paged.kernels.quantized_weight import QuantizedWeight
from enginebench_paged.projection import Projection

__all__ = ["Dense", "Mixture", "route"]

Gate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Dense:
    """gate_up has 2 * intermediate_size rows."""

    gate_up: Projection
    down: Projection

    @property
    def size_and_bits(self) -> tuple[int, int]:
        """Values of its matrices, and bits that they take."""
        return self.gate_up.size + self.down.size, self.gate_up.bits + self.down.bits

    def __call__(self, gate: Gate, hidden: Tensor) -> Tensor:
        return self.down(gate(self.gate_up(hidden)))


@dataclass(frozen=True, slots=True)
class Mixture:
    """E experts of size I: gate_up (E, 2 * I, hidden), down (E, hidden, I).

    `shared` is what every token passes, under the sigmoid of its product with `shared_gate`.
    """

    experts: Experts
    router: Projection
    gate_up: Tensor | QuantizedWeight
    down: Tensor | QuantizedWeight
    shared: Dense | None
    shared_gate: Tensor | None

    @property
    def size_and_bits(self) -> tuple[int, int]:
        """As of `Dense`; the router is counted with neither."""
        size, bits = (0, 0) if self.shared is None else self.shared.size_and_bits
        experts = (self.gate_up, self.down)
        return size + sum(e.numel() for e in experts), bits + sum(8 * e.nbytes for e in experts)

    def __call__(self, gate: Gate, hidden: Tensor) -> Tensor:
        weights, chosen = route(self.router(hidden), self.experts)
        ordered, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(self.experts.count + 1, device=hidden.device)
        offsets = torch.searchsorted(ordered, numbers).int()
        inner = gate(ops.grouped_linear(hidden, self.gate_up, offsets, order // self.experts.used))
        found = ops.grouped_linear(inner, self.down, offsets)
        found = found[order.argsort()].view(*chosen.shape, -1)  # (T, used, hidden)
        total = torch.bmm(weights[:, None], found.float())[:, 0]
        if self.shared is not None and self.shared_gate is not None:
            share = torch.sigmoid((hidden * self.shared_gate).float().sum(-1, keepdim=True))
            total = total + share * self.shared(gate, hidden).float()
        return total.to(hidden.dtype)


def route(logits: Tensor, experts: Experts) -> tuple[Tensor, Tensor]:
    """Weights (float32) and numbers of the experts that each token takes, both (T, used)."""
    weights, chosen = torch.softmax(logits.float(), dim=-1).topk(experts.used, dim=-1)
    if experts.normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, chosen
