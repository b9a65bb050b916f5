"""Rows of a KV cache in q8_0: a chunk's are rounded, those before it written out in f16 for it."""

import triton
import triton.language as tl
from torch import Tensor

from enginebench_quant.kernels.gpu.attention_decode import store_rounded
from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options

__all__ = ["expand_rows", "round_rows"]


@triton.jit
def _round_kernel(cache, span, codes, scales, capacity, BLOCKS: tl.constexpr, PDL: tl.constexpr):
    await_previous(PDL)
    if tl.program_id(0) < tl.load(span + 1):
        place = tl.load(span) + tl.program_id(0)
        row = tl.program_id(1).to(tl.int64) * capacity + place
        at = cache + row * BLOCKS * 32 + tl.arange(0, BLOCKS * 32)
        read = store_rounded(
            tl.load(at).to(tl.float32), codes + row * BLOCKS * 32, scales + row * BLOCKS, BLOCKS,
            True,
        )  # fmt: skip
        tl.store(at, read)


@triton.jit
def _expand_kernel(
    codes, scales, count, out, capacity,
    BLOCKS: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (place < tl.load(count))[:, None]
    row = (tl.program_id(1).to(tl.int64) * capacity + place)[:, None]
    d = tl.arange(0, BLOCKS * 32)[None, :]
    code = tl.load(codes + row * BLOCKS * 32 + d, mask=inside, other=0)
    scale = tl.load(scales + row * BLOCKS + d // 32, mask=inside, other=0.0)
    tl.store(out + row * BLOCKS * 32 + d, code.to(tl.float16) * scale, mask=inside)


def round_rows(cache: Tensor, span: Tensor, codes: Tensor, scales: Tensor, most: int) -> None:
    """Twin of reference.round_rows; the span holds at most `most` rows."""
    heads, capacity, head_dim = cache.shape
    _round_kernel[(most, heads)](
        cache, span, codes, scales, capacity, BLOCKS=head_dim // 32, num_warps=1,
        **launch_options(cache.device),
    )  # fmt: skip


def expand_rows(codes: Tensor, scales: Tensor, count: Tensor, out: Tensor) -> None:
    """Twin of reference.expand_rows."""
    heads, capacity, head_dim = out.shape
    rows = 32
    _expand_kernel[(triton.cdiv(capacity, rows), heads)](
        codes, scales, count, out, capacity, BLOCKS=head_dim // 32, ROWS=rows, num_warps=4,
        **launch_options(out.device),
    )  # fmt: skip
