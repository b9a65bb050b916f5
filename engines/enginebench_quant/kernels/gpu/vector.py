"""A vector as products read it: int8 with a scale for each block of 32, packed for dp4a."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from enginebench_quant.kernels.gpu.device import multiprocessors

__all__ = [
    "PACKED_HEADS",
    "Int8Vector",
    "empty_vector",
    "pack_vector",
    "packs_inner",
    "unpack_vector",
]

PACKED_HEADS = (32, 64, 128, 256)  # sizes of heads that attention can write as whole blocks


@dataclass(frozen=True, slots=True)
class Int8Vector:
    """`words` (2, blocks, 4) i32: byte j of word i is column 4i + j, of either half of a block.

    `scales` (blocks,) f32; `sums` (blocks,) i32: the sums of the halves' codes as two i16, which
    zero points and minima are multiplied with. Several vectors: a dimension of rows before these.
    """

    words: Tensor
    scales: Tensor
    sums: Tensor

    @property
    def blocks(self) -> int:
        return self.scales.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scales.shape[:-1], self.blocks * 32)

    def row(self, index: int) -> Int8Vector:
        """One of several, sharing memory."""
        return Int8Vector(self.words[index], self.scales[index], self.sums[index])

    @property
    def device(self) -> torch.device:
        return self.scales.device

    @property
    def is_cuda(self) -> bool:
        return self.scales.is_cuda

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.words, self.scales, self.sums


def empty_vector(columns: int, device: torch.device, rows: int | None = None) -> Int8Vector:
    """Room for `columns` values, `rows` times; ValueError if they are no whole blocks."""
    if columns % 32:
        raise ValueError(f"{columns} values are no whole number of blocks of 32")
    blocks, own = columns // 32, () if rows is None else (rows,)
    return Int8Vector(
        torch.zeros((*own, 2, blocks, 4), dtype=torch.int32, device=device),
        torch.zeros((*own, blocks), dtype=torch.float32, device=device),
        torch.zeros((*own, blocks), dtype=torch.int32, device=device),
    )


def packs_inner(rows: int, device: torch.device) -> bool:
    """Whether gate_up should quantize its `rows` outputs: if blocks of them fill the device."""
    return rows % 32 == 0 and rows // 32 >= multiprocessors(device)


def pack_vector(x: Tensor, out: Int8Vector) -> None:
    """Plain torch: x (columns,) f32 as int8."""
    blocks = x.view(-1, 32)
    largest = blocks.abs().amax(1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    codes = torch.round(blocks * inverse).to(torch.int8).view(-1, 2, 16)
    out.words.copy_(codes.transpose(0, 1).contiguous().view(torch.int32))
    out.scales.copy_(largest[:, 0] * (1.0 / 127.0))
    out.sums.copy_(codes.sum(-1, dtype=torch.int16).view(torch.int32)[:, 0])


def unpack_vector(x: Int8Vector) -> Tensor:
    """Plain torch: the values in float32."""
    codes = x.words.view(torch.int8).transpose(0, 1).reshape(-1, 32)
    return (codes.float() * x.scales[:, None]).view(-1)
