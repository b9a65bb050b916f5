"""Inputs of the attention tests: a cache poisoned wherever no token lies, and blocks in random
order.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

# Triton's interpreter multiplies bfloat16 as if it were integers
_NEEDS_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="bfloat16 products need a GPU"),
)
HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=_NEEDS_GPU)]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True, slots=True)
class Case:
    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor
    query_starts: Tensor
    max_query_len: int
    scales: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device) -> "Case":
        tensors = (self.q, self.k_cache, self.v_cache, self.block_tables)
        lens = (self.context_lens, self.query_starts)
        moved = (t.to(device) for t in (*tensors, *lens))
        scales = None if self.scales is None else tuple(t.to(device) for t in self.scales)
        return Case(*moved, self.max_query_len, scales)

    def in_fp8(self) -> "Case":
        """The same with its cache in fp8, each head in units of some scale."""
        n_kv_heads = self.k_cache.shape[1]
        scales = (torch.arange(1, n_kv_heads + 1) * 0.003, torch.rand(n_kv_heads) * 0.01 + 0.002)
        k, v = (
            # clamped: until torch 2.12 larger values became NaN
            (cache.float() / scale[:, None, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
            for cache, scale in zip((self.k_cache, self.v_cache), scales, strict=True)
        )
        return replace(self, k_cache=k, v_cache=v, scales=scales)

    def rounded(self) -> "Case":
        """What an fp8 case means, with its cache in float64."""
        k_scale, v_scale = self.scales
        k = self.k_cache.double() * k_scale[:, None, None].double()
        v = self.v_cache.double() * v_scale[:, None, None].double()
        return replace(self, k_cache=k, v_cache=v, scales=None)


def make_case(
    contexts: list[int],
    queries: list[int],
    *,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Unwritten memory is NaN, and unused entries of the tables point at such memory."""
    each = max(1, *(-(-context // block_size) for context in contexts))
    n_blocks = each * len(contexts) + 1
    cache = torch.full((2, n_blocks, n_kv_heads, block_size, head_dim), torch.nan, dtype=dtype)
    tables = (torch.randperm(n_blocks - 1) + 1)[: each * len(contexts)]
    tables = tables.view(len(contexts), each).to(torch.int32)
    for row, context in enumerate(contexts):
        position = torch.arange(context)
        block, offset = tables[row][position // block_size].long(), position % block_size
        for half in cache:
            half[block, :, offset] = torch.randn(context, n_kv_heads, head_dim).to(dtype)
        tables[row, -(-context // block_size) :] = 0  # a block of NaN
    starts = torch.tensor([0, *queries]).cumsum(0).to(torch.int32)
    q = torch.randn(sum(queries), n_heads, head_dim).to(dtype)
    lens = torch.tensor(contexts, dtype=torch.int32)
    return Case(q, cache[0], cache[1], tables, lens, starts, max(queries))


def exact_attention(
    case: Case, scale: float, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """float64, one query of one head at a time, straight from the definition."""
    n_heads, n_kv_heads = case.q.shape[1], case.k_cache.shape[1]
    block_size = case.k_cache.shape[2]
    out = torch.full(case.q.shape, torch.nan, dtype=torch.float64)
    for b, context in enumerate(case.context_lens.tolist()):
        first, last = case.query_starts[b : b + 2].tolist()
        position = torch.arange(context)
        block, offset = case.block_tables[b][position // block_size].long(), position % block_size
        keys = case.k_cache[block, :, offset].double()  # (context, Hkv, D)
        values = case.v_cache[block, :, offset].double()
        for row in range(first, last):
            at = context - (last - row)
            begin = 0 if window is None else max(0, at + 1 - window)
            for head in range(n_heads):
                kv_head = head // (n_heads // n_kv_heads)
                score = keys[begin : at + 1, kv_head] @ case.q[row, head].double() * scale
                if softcap is not None:
                    score = softcap * torch.tanh(score / softcap)
                out[row, head] = score.softmax(0) @ values[begin : at + 1, kv_head]
    return out


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected; NaN where anything is NaN."""
    expected = expected.double().cpu()
    return float((found.double().cpu() - expected).norm() / expected.norm())
