"""Launch configurations of the GPU kernels, fixed ahead of time; nothing is tuned at run time.

tests/benchmarks/quant_gpu.py times the candidates on a GPU and names the winners: those below are
an H100's, for the shapes of 135M to 8B parameters.
"""

from dataclasses import dataclass

import torch
import triton

from enginebench_quant.kernels.gpu.device import multiprocessors

__all__ = ["ProductConfig", "attention_splits", "product_config"]


@dataclass(frozen=True, slots=True)
class ProductConfig:
    """Matrix-vector product: rows a program multiplies at a time, its warps, and how many programs
    a multiprocessor gets at most; each then walks over several groups of rows.
    """

    rows: int
    num_warps: int
    programs_per_sm: int


def product_config(rows: int, blocks: int) -> ProductConfig:
    """For a matrix of `rows` rows of `blocks` blocks of 32."""
    tile = triton.next_power_of_2(blocks)
    if tile <= 32:
        return ProductConfig(8, 2, 10)
    if tile <= 64:
        return ProductConfig(8, 4, 5)
    if tile <= 128:
        return ProductConfig(8, 4, 5 if rows <= 4096 else 3)
    if tile <= 256:
        return ProductConfig(2, 4, 5)
    return ProductConfig(4, 8, 2) if blocks <= 384 else ProductConfig(2, 8, 2)


def attention_splits(device: torch.device, groups: int, context: int, tile: int) -> int:
    """Into how many parts a context is cut when `groups` groups of heads attend to it."""
    wanted = triton.cdiv(2 * multiprocessors(device), groups)
    return max(1, min(wanted, triton.cdiv(context, tile), 32))
