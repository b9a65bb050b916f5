"""Weight matrices in 8 or 4 bits: how they are made, how they lie in memory, what they mean.

Integers: W[n, k] = (value - zero) * scale, with a scale for each `group` of columns of a row, and a
zero of its own (asymmetric; of 4 bits in sixteenths) or the middle of the range (symmetric).
Columns are padded to whole groups. A byte of 4-bit values holds column i of its group below and
column i + group / 2 above, so that a kernel gets two tiles of neighbouring columns from one tile of
bytes.

fp8 (e4m3): W[n, k] = value * scale, one scale a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "FP8",
    "LARGEST_FP8",
    "QuantizedWeight",
    "WeightFormat",
    "fp8_rows",
    "quantize",
    "whole",
]

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = 448.0
_CHUNK_VALUES = 16 << 20  # quantized at once, in float32


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """`group` columns share a scale; None: fp8, a row does."""

    bits: int
    group: int | None
    has_zeros: bool = False

    @property
    def zero_parts(self) -> int:
        """A zero counts in these parts of a step: those of 4 bits in sixteenths, which are exact in
        bf16 too, and spare a group whose values lie between two steps an error in one direction.
        """
        return 16 if self.bits == 4 else 1

    @property
    def middle(self) -> int:
        """The zero of a symmetric integer format."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """W (..., N, K): `values` (..., N, bytes of a row) uint8 or fp8, `scales` (..., N, groups)
    bfloat16 (fp8: float32, one group), `zeros` like scales, uint8, or None.
    """

    format: WeightFormat
    columns: int
    values: Tensor
    scales: Tensor
    zeros: Tensor | None

    @property
    def rows(self) -> int:
        return self.values.shape[-2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of W."""
        return (*self.values.shape[:-1], self.columns)

    def numel(self) -> int:
        """How many values W has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.values, self.scales, self.zeros) if t is not None)

    def __getitem__(self, number: int) -> QuantizedWeight:
        """One matrix of a stack."""
        zeros = None if self.zeros is None else self.zeros[number]
        return QuantizedWeight(
            self.format, self.columns, self.values[number], self.scales[number], zeros
        )

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W itself."""
        scales = self.scales.float()
        if self.format.group is None:
            return (self.values.float() * scales).to(dtype)
        grouped = self.values.unflatten(-1, (scales.shape[-1], -1))
        if self.format.bits == 4:
            grouped = torch.cat((grouped & 15, grouped >> 4), dim=-1)
        zeros: Tensor | int = self.format.middle
        if self.zeros is not None:
            zeros = self.zeros[..., None].float() / self.format.zero_parts
        values = grouped.float().sub_(zeros).mul_(scales[..., None])
        return values.flatten(-2)[..., : self.columns].to(dtype)


def whole(weight: Tensor | QuantizedWeight, dtype: torch.dtype) -> Tensor:
    """W, quantized or not; in `dtype` if it was."""
    return weight if isinstance(weight, Tensor) else weight.dequantized(dtype)


def fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (rows, K) as fp8, and what each row is to be multiplied by, (rows, 1) float32."""
    scale = x.float().abs().amax(-1, keepdim=True).div_(LARGEST_FP8)
    scale = torch.where(scale > 0, scale, 1.0)
    return (x.float() / scale).clamp_(-LARGEST_FP8, LARGEST_FP8).to(FP8), scale


def quantize(weight: Tensor, format: WeightFormat) -> QuantizedWeight:
    """`weight` (..., N, K) rounded to `format`, some rows at a time."""
    columns = weight.shape[-1]
    rows = weight.reshape(-1, columns)
    quantize_rows = _fp8 if format.group is None else _integers
    step = max(1, _CHUNK_VALUES // columns)
    first = quantize_rows(rows[:step], format)
    wholes = [_whole(part, len(rows)) for part in first]
    for start in range(0, len(rows), step):
        parts = quantize_rows(rows[start : start + step], format) if start else first
        for whole, part in zip(wholes, parts, strict=True):
            if whole is not None and part is not None:
                whole[start : start + step] = part
    lead = weight.shape[:-1]
    values, scales, zeros = (t if t is None else t.view(*lead, t.shape[-1]) for t in wholes)
    assert values is not None and scales is not None
    return QuantizedWeight(format, columns, values, scales, zeros)


def _whole(part: Tensor | None, rows: int) -> Tensor | None:
    return None if part is None else part.new_empty((rows, part.shape[1]))


def _fp8(rows: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor, None]:
    return *fp8_rows(rows), None


def _integers(rows: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor, Tensor | None]:
    group = format.group
    assert group is not None
    padded = functional.pad(rows.float(), (0, -rows.shape[1] % group))
    grouped = padded.view(len(rows), -1, group)
    largest = 2 * format.middle - 1
    if format.has_zeros:
        low = grouped.amin(-1).clamp_(max=0.0)
        scale = _as_stored((grouped.amax(-1).clamp_(min=0.0) - low) / largest)
        zero = (-low / scale.float() * format.zero_parts).round_().clamp_(0, 255)
    else:
        scale = _as_stored(grouped.abs().amax(-1) / (format.middle - 1))
        zero = torch.full_like(scale, format.middle * format.zero_parts, dtype=torch.float32)
    values = (grouped / scale.float()[..., None]).add_(zero[..., None] / format.zero_parts)
    values = values.round_().clamp_(0, largest).to(torch.uint8)
    if format.bits == 4:
        below, above = values.chunk(2, dim=-1)
        values = below | (above << 4)
    return values.flatten(1), scale, zero.to(torch.uint8) if format.has_zeros else None


def _as_stored(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1.0).to(torch.bfloat16)
