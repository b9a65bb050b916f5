"""The kernels in plain torch: the oracle of every test and the path that a CPU takes.

Each function has a Triton twin with the same signature in a sibling file; `ops` chooses between
the two. Nothing here knows of requests or schedulers. Shapes: T tokens of a step, B sequences, Hq
query heads, Hkv key-value heads, D elements a head. Key-value caches are (num_blocks, Hkv,
block_size, D); products and sums are taken in float32.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from enginebench_paged.kernels.checks import Scales
from enginebench_paged.kernels.quantized_weight import QuantizedWeight, fp8_rows, whole
from enginebench_paged.kernels.reference_sampling import sample

__all__ = [
    "add_rms_norm",
    "fixed_attention",
    "fixed_grouped_linear",
    "fixed_linear",
    "gelu_mul",
    "grouped_linear",
    "linear",
    "paged_attention",
    "quantized_linear",
    "rms_norm",
    "rope_and_cache",
    "sample",
    "silu_mul",
]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension."""
    return functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream with x added (rounded to its dtype), and that sum normed: (normed,
    sum).
    """
    total = (x.float() + residual.float()).to(x.dtype)
    return rms_norm(total, weight, eps), total


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(first half) * second half over the last dimension."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (functional.silu(gate.float()) * up.float()).to(gate_up.dtype)


def gelu_mul(gate_up: Tensor) -> Tensor:
    """gelu(first half) * second half over the last dimension, gelu by its tanh approximation."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (functional.gelu(gate.float(), approximate="tanh") * up.float()).to(gate_up.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (M, K) times weight (N, K) transposed, plus bias (N,)."""
    return functional.linear(x, weight, bias)


fixed_linear = linear  # the twins of what is fixed are no less exact for not being so


def quantized_linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """x (M, K) times a quantized W (N, K) transposed, plus bias (N,).

    With fp8 weights x is rounded to fp8 too, a scale a row.
    """
    if weight.format.group is not None:
        return functional.linear(x, weight.dequantized(x.dtype), bias)
    rounded, scale = fp8_rows(x)
    product = functional.linear(rounded.float(), weight.values.float()) * scale * weight.scales.T
    return (product if bias is None else product + bias).to(x.dtype)


def grouped_linear(
    x: Tensor, weights: Tensor | QuantizedWeight, offsets: Tensor, rows: Tensor | None = None
) -> Tensor:
    """x times the transposed weights (E, N, K) of as many groups, (M, N).

    Row i of the result belongs to the group e with offsets[e] <= i < offsets[e + 1] (offsets is
    (E + 1,), from 0 to M) and is the product with row rows[i] of x, or row i where there are none.
    """
    bounds = offsets.tolist()
    out = torch.empty((bounds[-1], weights.shape[1]), dtype=x.dtype, device=x.device)
    for number, (first, last) in enumerate(pairwise(bounds)):
        if first < last:
            own = x[first:last] if rows is None else x[rows[first:last]]
            out[first:last] = functional.linear(own, whole(weights[number], x.dtype))
    return out


fixed_grouped_linear = grouped_linear


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    scales: Scales | None = None,
) -> Tensor:
    """Rotates q (T, Hq, D) and k (T, Hkv, D), stores k and v at `slots`, returns the rotated q.

    Heads are normed first where a norm's weight (D,) is given. `cos_sin` (max_pos, D) is float32:
    cosines in the first half of a row, sines in the second; element i of a head turns with
    element i + D/2. A slot is block * block_size + offset; a negative one stores nothing. An fp8
    cache holds each head in units of its scale.
    """
    if q_norm is not None:
        q = rms_norm(q, q_norm, eps)
    if k_norm is not None:
        k = rms_norm(k, k_norm, eps)
    q, k = rotate(q, cos_sin, positions), rotate(k, cos_sin, positions)
    if int(slots.min()) < 0:
        stored = slots >= 0
        k, v, slots = k[stored], v[stored], slots[stored]
    block_size = k_cache.shape[2]
    block, offset = slots // block_size, slots % block_size
    k_scale, v_scale = scales or (None, None)
    k_cache[block, :, offset] = stored_as(k_cache.dtype, k, k_scale)
    v_cache[block, :, offset] = stored_as(v_cache.dtype, v, v_scale)
    return q


def stored_as(dtype: torch.dtype, heads: Tensor, scale: Tensor | None) -> Tensor:
    """Heads (T, H, D) as a cache of `dtype` keeps them; what is too large for fp8 becomes 448."""
    if scale is not None:
        heads = (heads.float() / scale[:, None]).clamp_(-448.0, 448.0)
    return heads.to(dtype)


def rotate(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """Heads x (T, H, D) turned to their positions (T,); see `rope_and_cache`."""
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)  # (T, 1, D/2) each
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_starts: Tensor,
    max_query_len: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    scales: Scales | None = None,
) -> Tensor:
    """Causal attention of q (T, Hq, D) over each sequence's blocks of the cache.

    Sequence b owns the queries query_starts[b]:query_starts[b+1], the last positions of its
    context_lens[b] keys. A query sees itself and, with a window, the window - 1 keys before it.
    Sequences with one query are done in one batch, the others one by one.
    """
    lens = query_starts.diff()
    if max_query_len == 1 and q.shape[0] == lens.shape[0]:
        return _decode(
            q, k_cache, v_cache, block_tables, context_lens, scale, window, softcap, scales
        )
    out = torch.empty_like(q)
    single = (lens == 1).nonzero().flatten()
    if len(single):
        rows = query_starts[single].long()
        tables, contexts = block_tables[single], context_lens[single]
        out[rows] = _decode(
            q[rows], k_cache, v_cache, tables, contexts, scale, window, softcap, scales
        )
    for b in (lens > 1).nonzero().flatten().tolist():
        first, last = int(query_starts[b]), int(query_starts[b + 1])
        context = int(context_lens[b])
        out[first:last] = _prefill(
            q[first:last],
            k_cache,
            v_cache,
            block_tables[b],
            context,
            scale,
            window,
            softcap,
            scales,
        )
    return out


fixed_attention = paged_attention


def _decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    scales: Scales | None,
) -> Tensor:
    batch, n_heads, head_dim = q.shape
    n_kv_heads, block_size = k_cache.shape[1:3]
    k_scale, v_scale = scales or (None, None)
    longest = int(context_lens.max())
    n_blocks = -(-longest // block_size)
    position = torch.arange(n_blocks * block_size, device=q.device)
    visible = position < context_lens[:, None]  # (B, C)
    used = position[::block_size] < context_lens[:, None]
    blocks = torch.where(used, block_tables[:, :n_blocks], 0)
    k = _gather(k_cache, blocks, k_scale, q.dtype)[:, :, :longest]
    v = _gather(v_cache, blocks, v_scale, q.dtype)[:, :, :longest]
    visible = visible[:, :longest]
    if not bool(visible.all()):
        for tensor in (k, v):  # memory never written may hold NaN, which no weight of 0 silences
            tensor.transpose(1, 2)[~visible] = 0
    if window is not None:
        visible = visible & (position[:longest] >= context_lens[:, None] - window)
    grouped = q.view(batch, n_kv_heads, n_heads // n_kv_heads, head_dim)
    out = _attend(grouped, k, v, visible[:, None, None], scale, softcap)
    return out.reshape(batch, n_heads, head_dim)


def _prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    scales: Scales | None,
) -> Tensor:
    n_queries, n_heads, head_dim = q.shape
    n_kv_heads, block_size = k_cache.shape[1:3]
    k_scale, v_scale = scales or (None, None)
    group = n_heads // n_kv_heads
    blocks = block_table[None, : -(-context // block_size)]
    k = _gather(k_cache, blocks, k_scale, q.dtype)[:, :, :context]
    v = _gather(v_cache, blocks, v_scale, q.dtype)[:, :, :context]
    key = torch.arange(context, device=q.device)
    query = key[context - n_queries :, None]
    visible = key <= query  # (Q, C)
    if window is not None:
        visible &= key > query - window
    # (1, Hkv, group * Q, D): one product serves the query heads that share a key head
    grouped = q.view(n_queries, n_kv_heads, group, head_dim).permute(1, 2, 0, 3)
    grouped = grouped.reshape(1, n_kv_heads, group * n_queries, head_dim)
    out = _attend(grouped, k, v, visible.repeat(group, 1)[None, None], scale, softcap)
    out = out.view(n_kv_heads, group, n_queries, head_dim).permute(2, 0, 1, 3)
    return out.reshape(n_queries, n_heads, head_dim)


def _gather(cache: Tensor, blocks: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The blocks (B, n) of each sequence as one (B, Hkv, n * block_size, D), in one copy."""
    n_blocks, n_kv_heads, block_size, head_dim = cache.shape
    head = torch.arange(n_kv_heads, device=cache.device)
    rows = blocks.long()[:, None] * n_kv_heads + head[:, None]  # (B, Hkv, n)
    picked = cache.view(n_blocks * n_kv_heads, block_size * head_dim)[rows.flatten()]
    heads = picked.view(len(blocks), n_kv_heads, -1, head_dim)
    return (heads if scale is None else heads.float() * scale[:, None, None]).to(dtype)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Tensor:
    if softcap is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)) * scale
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    return torch.matmul(weights, v.float()).to(q.dtype)
