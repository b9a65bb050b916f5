"""Launch configurations of the GPU kernels, fixed ahead of time; nothing is tuned at run time.

tests/benchmarks/quant_gpu.py times the candidates on a GPU and names the winners: those below are
an H100's, for the shapes of 135M to 8B parameters.
"""

from dataclasses import dataclass

import triton

__all__ = [
    "ProductConfig",
    "attention_heads",
    "attention_splits",
    "gate_up_config",
    "product_config",
]

_ATTENTION_PROGRAMS = 256  # about two for each of an H100's multiprocessors
_MOST_SPLITS = 16  # joining more costs short contexts what they win


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
    if tile <= 128:
        return ProductConfig(8, 4, 5 if rows <= 4096 else 3)
    if tile <= 256:
        return ProductConfig(2, 4, 5)
    return ProductConfig(4, 8, 2)


def gate_up_config(blocks: int, *, is_super: bool) -> ProductConfig:
    """For two matrices at once; `is_super`: their scales are those of super-blocks, which take
    registers to unpack.
    """
    tile = triton.next_power_of_2(blocks)
    if tile <= 32:
        return ProductConfig(8, 2, 6)
    if tile <= 128:
        return ProductConfig(4 if is_super and tile > 64 else 8, 4, 5)
    return ProductConfig(2, 4, 6) if tile <= 256 else ProductConfig(2, 8, 2)


def attention_heads(n_heads: int, group: int) -> int:
    """How many heads of a group a program attends for: two, unless few programs are left then."""
    return 2 if group % 2 == 0 and n_heads // 2 * _MOST_SPLITS >= _ATTENTION_PROGRAMS else 1


def attention_splits(groups: int, context: int, tile: int) -> int:
    """Into how many parts a context is cut when `groups` groups of heads attend to it."""
    wanted = triton.next_power_of_2(triton.cdiv(_ATTENTION_PROGRAMS, groups))
    return max(1, min(wanted, triton.cdiv(context, tile), 2 * _MOST_SPLITS))
