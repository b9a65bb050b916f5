"""Rotary embedding of q and k, with the norm of their heads before it and the write to the cache
after it.

One program takes a few heads of one token: query heads are normed, turned and written out; key
heads the same, into the cache, together with the value head of the same number. So q, k and v are
read once and nothing else is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import (
    Scales,
    check_scales,
    require,
    require_contiguous,
    require_dense_rows,
    require_shape,
)
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options

_HEADS = 4  # a program: enough bytes in flight, and decode of one token still fills many programs


@triton.jit
def _turned(
    source,
    row_inside,
    half,
    half_inside,
    norm,
    eps,
    cos,
    sin,
    NORMED: tl.constexpr,
    HALF: tl.constexpr,
):
    """Both halves (heads, D/2) of the heads at `source`, normed and rotated, in float32."""
    inside = row_inside[:, None] & half_inside[None, :]
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    dtype = source.dtype.element_ty
    if NORMED:
        mean_square = (tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)) / (2 * HALF)
        scale = tl.rsqrt(mean_square + eps)[:, None]
        low_weight = tl.load(norm + half, mask=half_inside, other=0.0).to(tl.float32)
        high_weight = tl.load(norm + HALF + half, mask=half_inside, other=0.0).to(tl.float32)
        low = (low * scale * low_weight[None, :]).to(dtype).to(tl.float32)
        high = (high * scale * high_weight[None, :]).to(dtype).to(tl.float32)
    return low * cos - high * sin, high * cos + low * sin


@triton.jit
def _store(target, low, high, scale_at, real, inside, HALF: tl.constexpr, SCALED: tl.constexpr):
    """Both halves into a cache; an fp8 one takes each head in units of its scale, at most 448."""
    if SCALED:
        scale = tl.load(scale_at, mask=real, other=1.0)[:, None]
        low = tl.clamp(low.to(tl.float32) / scale, -448.0, 448.0)
        high = tl.clamp(high.to(tl.float32) / scale, -448.0, 448.0)
    tl.store(target, low.to(target.dtype.element_ty), mask=inside)
    tl.store(target + HALF, high.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _rope_cache_kernel(
    q,
    k,
    v,
    positions,
    cos_sin,
    k_cache,
    v_cache,
    slots,
    q_norm,
    k_norm,
    k_scale,
    v_scale,
    out,
    eps,
    q_stride_token,
    q_stride_head,
    k_stride_token,
    k_stride_head,
    v_stride_token,
    v_stride_head,
    cache_stride_block,
    cache_stride_head,
    cache_stride_slot,
    BLOCK_SIZE: tl.constexpr,
    N_HEADS: tl.constexpr,
    N_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    HEADS: tl.constexpr,
    Q_NORMED: tl.constexpr,
    K_NORMED: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    q_groups: tl.constexpr = (N_HEADS + HEADS - 1) // HEADS
    half = tl.arange(0, HALF_PAD)
    half_inside = half < HALF
    angles = cos_sin + tl.load(positions + token) * (2 * HALF) + half
    cos = tl.load(angles, mask=half_inside, other=0.0)[None, :]
    sin = tl.load(angles + HALF, mask=half_inside, other=0.0)[None, :]
    slot = tl.load(slots + token)
    await_previous(PDL)
    if group < q_groups:
        head = group * HEADS + tl.arange(0, HEADS)
        real = head < N_HEADS
        source = q + token * q_stride_token + head[:, None] * q_stride_head + half[None, :]
        low, high = _turned(source, real, half, half_inside, q_norm, eps, cos, sin, Q_NORMED, HALF)
        target = out + (token * N_HEADS + head[:, None]) * (2 * HALF) + half[None, :]
        inside = real[:, None] & half_inside[None, :]
        tl.store(target, low.to(out.dtype.element_ty), mask=inside)
        tl.store(target + HALF, high.to(out.dtype.element_ty), mask=inside)
    else:
        if slot >= 0:
            head = (group - q_groups) * HEADS + tl.arange(0, HEADS)
            real = head < N_KV_HEADS
            inside = real[:, None] & half_inside[None, :]
            source = k + token * k_stride_token + head[:, None] * k_stride_head + half[None, :]
            low, high = _turned(
                source, real, half, half_inside, k_norm, eps, cos, sin, K_NORMED, HALF
            )
            place = (slot // BLOCK_SIZE) * cache_stride_block
            place += (slot % BLOCK_SIZE) * cache_stride_slot
            place = place + head.to(tl.int64)[:, None] * cache_stride_head + half[None, :]
            dtype = k.dtype.element_ty
            low, high = low.to(dtype), high.to(dtype)
            _store(k_cache + place, low, high, k_scale + head, real, inside, HALF, SCALED)
            source = v + token * v_stride_token + head[:, None] * v_stride_head + half[None, :]
            low = tl.load(source, mask=inside, other=0.0)
            high = tl.load(source + HALF, mask=inside, other=0.0)
            _store(v_cache + place, low, high, v_scale + head, real, inside, HALF, SCALED)


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
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Twin of reference.rope_and_cache; q, k, v may be slices of one merged product."""
    n_tokens, n_heads, head_dim = q.shape
    n_kv_heads, block_size = k_cache.shape[1:3]
    require(head_dim % 2 == 0, f"heads of {head_dim} elements cannot be rotated in halves")
    require_shape("k", k, n_tokens, n_kv_heads, head_dim)
    require_shape("v", v, n_tokens, n_kv_heads, head_dim)
    require_shape("cos_sin", cos_sin, cos_sin.shape[0], head_dim)
    require_shape("k_cache", k_cache, k_cache.shape[0], n_kv_heads, block_size, head_dim)
    require_shape("v_cache", v_cache, *k_cache.shape)
    require_shape("positions", positions, n_tokens)
    require_shape("slots", slots, n_tokens)
    require(cos_sin.dtype == torch.float32, f"cos_sin is {cos_sin.dtype}, expected float32")
    for name, ids in (("positions", positions), ("slots", slots)):
        require(ids.dtype == torch.int64, f"{name} is {ids.dtype}, expected int64")
    require(k_cache.stride() == v_cache.stride(), "k_cache and v_cache must have the same strides")
    require_dense_rows(q=q, k=k, v=v, k_cache=k_cache)
    check_scales(k_cache, scales)
    require_contiguous(positions=positions, slots=slots, cos_sin=cos_sin)
    for name, norm in (("q_norm", q_norm), ("k_norm", k_norm)):
        if norm is not None:
            require_shape(name, norm, head_dim)
    if out is None:
        out = torch.empty((n_tokens, n_heads, head_dim), dtype=q.dtype, device=q.device)
    require_shape("out", out, n_tokens, n_heads, head_dim)
    require_contiguous(out=out)
    if n_tokens == 0:
        return out
    grid = (n_tokens, triton.cdiv(n_heads, _HEADS) + triton.cdiv(n_kv_heads, _HEADS))
    _rope_cache_kernel[grid](
        q,
        k,
        v,
        positions,
        cos_sin,
        k_cache,
        v_cache,
        slots,
        q if q_norm is None else q_norm,
        k if k_norm is None else k_norm,
        *(scales or (q, q)),
        out,
        eps,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        *k_cache.stride()[:3],
        BLOCK_SIZE=block_size,
        N_HEADS=n_heads,
        N_KV_HEADS=n_kv_heads,
        HALF=head_dim // 2,
        HALF_PAD=triton.next_power_of_2(head_dim // 2),
        HEADS=_HEADS,
        Q_NORMED=q_norm is not None,
        K_NORMED=k_norm is not None,
        SCALED=scales is not None,
        num_warps=1,
        **launch_options(q.device),
    )
    return out
