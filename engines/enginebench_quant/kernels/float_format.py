"""Tensors of plain numbers: one vector of a group's rows for each column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llvmlite import ir

from enginebench_quant.kernels.simd import Simd

__all__ = ["FloatFormat"]


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """F32, F16 or BF16; activations are floats too."""

    name: str
    element_bytes: int
    block: int = 4
    parts: int = 1
    activations: Literal["int8", "float"] = "float"

    @property
    def block_bytes(self) -> int:
        return self.block * self.element_bytes

    def begin(self, v: Simd, step: ir.Value) -> list[ir.Value]:
        return []

    def load(
        self, v: Simd, step: ir.Value, part: ir.Value, factors: list[ir.Value]
    ) -> list[ir.Value]:
        stride = self.element_bytes * v.lanes
        addresses = [v.at(step, column * stride) for column in range(self.block)]
        if self.name == "F16":
            return [v.load_f16(a) for a in addresses]
        if self.name == "BF16":
            return [v.load_bf16(a) for a in addresses]
        return [v.load(a, v.f32) for a in addresses]

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        totals = list(totals)
        for column, weight in enumerate(weights):
            which = column % len(totals)
            totals[which] = v.fma(weight, v.broadcast_f32(v.at(acts, 4 * column)), totals[which])
        return totals
