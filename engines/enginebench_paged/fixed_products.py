"""Products whose rows do not depend on how many other rows there are (option `deterministic`).

A library chooses its kernel, and so the order of its sums, by the number of rows. Here all products
with a weight have one shape: on a CPU exactly ROWS rows at a time, on a GPU tiles of one size over
the same parts of K (`kernels.fixed_linear`). What is added up over experts is added in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from enginebench_paged.feed_forward import Dense, Gate, Mixture, route
from enginebench_paged.kernels import ops
from enginebench_paged.kernels.quantized_weight import QuantizedWeight, whole
from enginebench_paged.loader import LayerWeights, ModelWeights
from enginebench_paged.projection import Projection

__all__ = ["FixedProjection", "fixed", "in_rows"]

ROWS = 16


def in_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of exactly ROWS rows of x (rows, ...) at a time; the last ones get zeros added."""
    padding = [0, 0] * (x.dim() - 1) + [0, -len(x) % ROWS]
    parts = [function(part) for part in torch.split(functional.pad(x, padding), ROWS)]
    return torch.cat(parts)[: len(x)]


class FixedProjection(Projection):
    """Another one's product, each row of which is as if it came alone."""

    __slots__ = ("_of",)

    def __init__(self, of: Projection) -> None:
        self._of, self.weight, self.bias = of, of.weight, of.bias
        self.size, self.bits = of.size, of.bits

    def __call__(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return in_rows(self._of, x)
        assert self.weight is not None
        if isinstance(self.weight, QuantizedWeight):
            return ops.quantized_linear(x, self.weight, self.bias, fixed=True)
        return ops.fixed_linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class FixedMixture(Mixture):
    """A mixture whose products have one shape and whose sums have one order."""

    def __call__(self, gate: Gate, hidden: Tensor) -> Tensor:
        unscaled = replace(self.experts, normalized=False)
        weights, chosen = route(self.router(hidden), unscaled)
        if self.experts.normalized:
            weights = weights / _in_order(weights.unbind(1))[:, None]
        ordered, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(self.experts.count + 1, device=hidden.device)
        offsets = torch.searchsorted(ordered, numbers).int()
        inner = gate(_grouped(hidden[order // self.experts.used], self.gate_up, offsets))
        found = _grouped(inner, self.down, offsets)[order.argsort()]
        shares = found.view(*chosen.shape, -1).float() * weights[:, :, None]
        total = _in_order(shares.unbind(1))
        if self.shared is not None and self.shared_gate is not None:
            share = in_rows(torch.sigmoid, _dot(hidden, self.shared_gate))
            total = total + share * self.shared(gate, hidden).float()
        return total.to(hidden.dtype)


def _in_order(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _dot(x: Tensor, vector: Tensor) -> Tensor:
    """x (T, K) times vector (K,): (T, 1) in float32."""
    if x.is_cuda:
        return ops.fixed_linear(x, vector[None]).float()
    return in_rows(lambda part: (part * vector).float().sum(-1, keepdim=True), x)


def _grouped(x: Tensor, weights: Tensor | QuantizedWeight, offsets: Tensor) -> Tensor:
    if x.is_cuda:
        return ops.fixed_grouped_linear(x, weights, offsets)
    bounds = offsets.tolist()
    parts = [
        in_rows(partial(functional.linear, weight=whole(weights[number], x.dtype)), x[first:last])
        for number, (first, last) in enumerate(pairwise(bounds))
        if first < last
    ]
    return torch.cat(parts)


def fixed(weights: ModelWeights) -> ModelWeights:
    """The same weights with such products."""
    layers = tuple(_layer(layer) for layer in weights.layers)
    return replace(weights, layers=layers, head=FixedProjection(weights.head))


def _layer(layer: LayerWeights) -> LayerWeights:
    part = layer.feed_forward
    return replace(
        layer,
        qkv=FixedProjection(layer.qkv),
        output=FixedProjection(layer.output),
        feed_forward=_dense(part) if isinstance(part, Dense) else _mixture(part),
    )


def _dense(part: Dense) -> Dense:
    return Dense(FixedProjection(part.gate_up), FixedProjection(part.down))


def _mixture(part: Mixture) -> Mixture:
    return FixedMixture(
        part.experts,
        FixedProjection(part.router),
        part.gate_up,
        part.down,
        None if part.shared is None else _dense(part.shared),
        part.shared_gate,
    )
