"""Attention of one new token: norms and rotation of q and k, the write to the cache, and the sum
over all keys, in one launch.

A program takes a few query heads that share a key head, padded to 16 rows for the matrix units,
and its part of the cached keys; the grid is fixed at launch and the position read on the device,
so the kernel fits a CUDA graph. The new key does not go through the cache: the first part begins
its running softmax with it. So a program needs nothing of the kernel before it to ask for its first
tile of keys and values, and does not wait for it. The last program of a head group to finish joins
the parts, and quantizes them if the product that follows takes int8.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_quant.kernels.gpu.codes import store_quantized
from enginebench_quant.kernels.gpu.configs import attention_heads, attention_splits
from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options
from enginebench_quant.kernels.gpu.sight import Sight
from enginebench_quant.kernels.gpu.vector import PACKED_HEADS, Int8Vector

__all__ = ["AttentionWorkspace", "decode_attention", "store_rounded"]

_LOG2E = math.log2(math.e)
_TILE = 64


@triton.jit
def rotated(source, norm, eps, cos, sin, row_inside, HALF: tl.constexpr, HALF_PAD: tl.constexpr,
            NORMED: tl.constexpr):  # fmt: skip
    """Both halves (rows, D/2) of the heads at `source` (rows, 1), normed and rotated, in f32."""
    half = tl.arange(0, HALF_PAD)[None, :]
    inside = row_inside & (half < HALF)
    low = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + HALF + half, mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        mean = (tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)) / (2 * HALF)
        scale = tl.rsqrt(mean + eps)[:, None]
        low = low * scale * tl.load(norm + half, mask=half < HALF, other=0.0)
        high = high * scale * tl.load(norm + HALF + half, mask=half < HALF, other=0.0)
    return low * cos - high * sin, high * cos + low * sin


@triton.jit
def capped(score, cap):
    """cap * tanh(score / cap), in units of log2."""
    return (
        cap * (1.0 - 2.0 / (1.0 + tl.exp2(score * (2.8853900817779268 / cap)))) * 1.4426950408889634
    )


@triton.jit
def _keys_and_values(
    k_head, v_head, k_scales, v_scales, start, end,
    HALF: tl.constexpr, HALF_PAD: tl.constexpr, D_PAD: tl.constexpr, TILE: tl.constexpr,
    QUANTIZED: tl.constexpr,
):  # fmt: skip
    """Both halves of a tile of keys (D/2, TILE), its values (TILE, D), past the caches of cores;
    and what each is to be multiplied with, if they are quantized.
    """
    D: tl.constexpr = 2 * HALF
    half = tl.arange(0, HALF_PAD)
    d = tl.arange(0, D_PAD)
    key = start + tl.arange(0, TILE)
    inside = key < end
    k_at = k_head + key[None, :] * D + half[:, None]
    k_mask = inside[None, :] & (half < HALF)[:, None]
    low = tl.load(k_at, mask=k_mask, other=0.0, cache_modifier=".cg")
    high = tl.load(k_at + HALF, mask=k_mask, other=0.0, cache_modifier=".cg")
    v_mask = inside[:, None] & (d < D)[None, :]
    v_at = v_head + key[:, None] * D + d[None, :]
    value = tl.load(v_at, mask=v_mask, other=0.0, cache_modifier=".cg")
    if QUANTIZED:
        BLOCKS: tl.constexpr = D // 32
        k_at = k_scales + key[None, :] * BLOCKS + half[:, None] // 32
        low_scale = tl.load(k_at, mask=k_mask, other=0.0, cache_modifier=".cg")
        high_scale = tl.load(k_at + BLOCKS // 2, mask=k_mask, other=0.0, cache_modifier=".cg")
        v_at = v_scales + key[:, None] * BLOCKS + d[None, :] // 32
        value_scale = tl.load(v_at, mask=v_mask, other=0.0, cache_modifier=".cg")
        return low, high, value, low_scale, high_scale, value_scale
    else:
        return low, high, value, low, high, value


@triton.jit
def _halves(codes, scale, QUANTIZED: tl.constexpr):
    """The numbers in f16."""
    if QUANTIZED:
        return codes.to(tl.float16) * scale
    else:
        return codes


@triton.jit
def rounded(x, BLOCKS: tl.constexpr):
    """x (BLOCKS * 32,) f32 as int8 in blocks: codes (BLOCKS, 32) and f16 scales (BLOCKS,)."""
    rows = tl.reshape(x, (BLOCKS, 32))
    largest = tl.max(tl.abs(rows), axis=1)
    inverse = tl.where(largest > 0, 127.0 / tl.where(largest > 0, largest, 1.0), 0.0)
    codes = (rows * inverse[:, None] + 12582912.0) - 12582912.0  # 1.5 * 2**23: rounds to even
    return codes, (largest * (1.0 / 127.0)).to(tl.float16)


@triton.jit
def store_rounded(x, codes_at, scales_at, BLOCKS: tl.constexpr, writes):
    """Stores x (BLOCKS * 32,) rounded, if it `writes`, and gives what it then reads as, in f16."""
    codes, scales = rounded(x, BLOCKS)
    block = tl.arange(0, BLOCKS)
    at = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(codes_at + at, codes.to(tl.int8), mask=(at >= 0) & writes)
    tl.store(scales_at + block, scales, mask=(block >= 0) & writes)
    return tl.reshape(codes.to(tl.float16) * scales[:, None], (BLOCKS * 32,))


@triton.jit
def _decode_kernel(
    qkv, q_norm, k_norm, eps, cos_sin, position, k_cache, v_cache, k_scales, v_scales,
    out, out_scales, out_sums, partial, partial_lse, arrived, scale, softcap, capacity,
    N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HEADS: tl.constexpr, HEADS_PAD: tl.constexpr,
    HALF: tl.constexpr, HALF_PAD: tl.constexpr, D_PAD: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, SPLITS_PAD: tl.constexpr, NORMED: tl.constexpr, PACKED: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, QUANTIZED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    D: tl.constexpr = 2 * HALF
    BLOCKS: tl.constexpr = D // 32
    GROUP: tl.constexpr = N_HEADS // N_KV_HEADS
    split = tl.program_id(0)
    group = tl.program_id(1)
    kv_head = group * HEADS // GROUP
    # The position and the cached keys are older than the kernel before this one.
    keys = tl.load(position, cache_modifier=".cg")
    oldest = 0
    if WINDOW:
        oldest = tl.maximum(keys - WINDOW + 1, 0)
    seen = keys - oldest
    tiles_each = tl.maximum(tl.cdiv(tl.cdiv(seen, TILE), SPLITS), 1)
    used = tl.maximum(tl.cdiv(seen, tiles_each * TILE), 1)
    begin = oldest + split * tiles_each * TILE
    end = tl.minimum(begin + tiles_each * TILE, keys)
    k_head = k_cache + kv_head.to(tl.int64) * capacity * D
    v_head = v_cache + kv_head.to(tl.int64) * capacity * D
    k_head_scales = k_scales + kv_head.to(tl.int64) * capacity * BLOCKS
    v_head_scales = v_scales + kv_head.to(tl.int64) * capacity * BLOCKS
    following = _keys_and_values(
        k_head, v_head, k_head_scales, v_head_scales, begin, end, HALF, HALF_PAD, D_PAD, TILE,
        QUANTIZED,
    )  # fmt: skip
    half = tl.arange(0, HALF_PAD)
    angles = cos_sin + keys.to(tl.int64) * D + half
    cos = tl.load(angles, mask=half < HALF, other=0.0)[None, :]
    sin = tl.load(angles + HALF, mask=half < HALF, other=0.0)[None, :]
    await_previous(PDL)
    if split >= used:
        return

    d = tl.arange(0, D_PAD)
    row = tl.arange(0, HEADS_PAD)
    head = group * HEADS + row
    real = (row < HEADS)[:, None]
    q_at = qkv + head[:, None] * D
    low, high = rotated(q_at, q_norm, eps, cos, sin, real, HALF, HALF_PAD, NORMED)
    low = (low * scale).to(tl.float16)
    high = (high * scale).to(tl.float16)
    best = tl.full((HEADS_PAD,), -1.0e30, tl.float32)
    total = tl.zeros((HEADS_PAD,), tl.float32)
    acc = tl.zeros((HEADS_PAD, D_PAD), tl.float32)
    if split == 0:
        one = tl.arange(0, 1)[:, None]
        k_at = qkv + (N_HEADS + kv_head) * D + one
        new_low, new_high = rotated(k_at, k_norm, eps, cos, sin, one < 1, HALF, HALF_PAD, NORMED)
        v_at = qkv + (N_HEADS + N_KV_HEADS + kv_head) * D + d
        new_v = tl.load(v_at, mask=d < D, other=0.0)
        place = keys.to(tl.int64)
        if QUANTIZED:
            NB: tl.constexpr = BLOCKS // 2
            low_row = tl.reshape(new_low, (HALF,))
            high_row = tl.reshape(new_high, (HALF,))
            k_to = k_head + place * D
            v_to = v_head + place * D
            ks_to = k_head_scales + place * BLOCKS
            vs_to = v_head_scales + place * BLOCKS
            writes = group * HEADS % GROUP == 0
            new_low = store_rounded(low_row, k_to, ks_to, NB, writes)[None, :]
            new_high = store_rounded(high_row, k_to + HALF, ks_to + NB, NB, writes)[None, :]
            new_v = store_rounded(new_v, v_to, vs_to, BLOCKS, writes)
        else:
            new_low = new_low.to(tl.float16)
            new_high = new_high.to(tl.float16)
            new_v = new_v.to(tl.float16)
            if group * HEADS % GROUP == 0:
                k_to = k_head + place * D + half[None, :]
                tl.store(k_to, new_low, mask=half[None, :] < HALF)
                tl.store(k_to + HALF, new_high, mask=half[None, :] < HALF)
                tl.store(v_head + place * D + d, new_v, mask=d < D)
        best = tl.sum(low.to(tl.float32) * new_low.to(tl.float32), axis=1)
        best += tl.sum(high.to(tl.float32) * new_high.to(tl.float32), axis=1)
        if CAPPED:
            best = capped(best, softcap)
        total = tl.full((HEADS_PAD,), 1.0, tl.float32)
        acc = acc + new_v.to(tl.float32)[None, :]

    for start in tl.range(begin, end, TILE, num_stages=1):
        k_low, k_high, value, low_scale, high_scale, value_scale = following
        following = _keys_and_values(
            k_head, v_head, k_head_scales, v_head_scales, start + TILE, end, HALF, HALF_PAD,
            D_PAD, TILE, QUANTIZED,
        )  # fmt: skip
        this_low = _halves(k_low, low_scale, QUANTIZED)
        this_high = _halves(k_high, high_scale, QUANTIZED)
        this_value = _halves(value, value_scale, QUANTIZED)
        score = tl.dot(low, this_low) + tl.dot(high, this_high)  # (HEADS_PAD, TILE)
        if CAPPED:
            score = capped(score, softcap)
        score = tl.where((start + tl.arange(0, TILE) < end)[None, :], score, -1.0e30)
        new_best = tl.maximum(best, tl.max(score, axis=1))
        weight = tl.exp2(score - new_best[:, None])
        decay = tl.exp2(best - new_best)
        total = total * decay + tl.sum(weight, axis=1)
        acc = acc * decay[:, None]
        acc = tl.dot(weight.to(tl.float16), this_value, acc)
        best = new_best

    place = head * SPLITS + split
    acc = acc / total[:, None]
    tl.store(partial_lse + place, best + tl.log2(total), mask=row < HEADS)
    tl.store(partial + place[:, None] * D + d[None, :], acc, mask=real & (d < D)[None, :])
    tl.debug_barrier()  # every lane has written before one of them says so
    before = tl.atomic_add(arrived + group, 1, sem="acq_rel")
    if before == used - 1:
        tl.debug_barrier()
        part = tl.arange(0, SPLITS_PAD)
        for one_head in tl.static_range(HEADS):
            own = group * HEADS + one_head
            at = own * SPLITS + part
            lse = tl.load(
                partial_lse + at, mask=part < used, other=-1.0e30, cache_modifier=".cg"
            )  # fmt: skip
            share = tl.where(part < used, tl.exp2(lse - tl.max(lse, axis=0)), 0.0)
            parts = tl.load(
                partial + at[:, None] * D + d[None, :],
                mask=(part < used)[:, None] & (d < D)[None, :], other=0.0, cache_modifier=".cg",
            )  # fmt: skip
            joined = tl.sum(parts * share[:, None], axis=0) / tl.sum(share, axis=0)
            if PACKED:
                blocks = tl.reshape(joined, (D_PAD // 32, 32))
                store_quantized(
                    blocks, out, out_scales, out_sums, own * (D // 32), N_HEADS * (D // 32),
                    D_PAD // 32,
                )  # fmt: skip
            else:
                tl.store(out + own * D + d, joined, mask=d < D)
        tl.store(arrived + group, 0)


class AttentionWorkspace:
    """Parts of heads, and counters of finished parts, which every launch leaves at 0."""

    def __init__(self, n_heads: int, n_kv_heads: int, head_dim: int, context: int,
                 device: torch.device, heads: int | None = None, splits: int | None = None,
                 ) -> None:  # fmt: skip
        group = n_heads // n_kv_heads
        self.heads = heads or attention_heads(n_heads, group)
        if group % self.heads:
            raise ValueError(f"programs of {self.heads} heads do not divide a group of {group}")
        groups = n_heads // self.heads
        self.splits = splits or attention_splits(groups, context, _TILE)
        parts = (n_heads, self.splits)
        self.partial = torch.empty((*parts, head_dim), dtype=torch.float32, device=device)
        self.lse = torch.empty(parts, dtype=torch.float32, device=device)
        self.arrived = torch.zeros(groups, dtype=torch.int32, device=device)


def decode_attention(
    qkv: Tensor,
    position: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor | Int8Vector,
    workspace: AttentionWorkspace,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
    sight: Sight | None = None,
    early: bool = True,
    scales: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Twin of reference.decode_attention.

    `early` False: keys of this sequence come from the kernel just before, which is
    then waited for first.
    """
    sight = sight or Sight.of_head(k_cache.shape[2])
    n_kv_heads, capacity, head_dim = k_cache.shape
    n_heads = out.shape[0] // head_dim
    if qkv.shape != ((n_heads + 2 * n_kv_heads) * head_dim,) or qkv.dtype != torch.float32:
        raise ValueError(f"qkv is {qkv.dtype} {tuple(qkv.shape)}, not f32 of all heads' rows")
    if not (k_cache.is_contiguous() and v_cache.is_contiguous()):
        raise ValueError("caches must be contiguous")
    if scales is not None and head_dim not in (64, 128, 256):
        raise ValueError(f"keys of {head_dim} are not cached in q8_0, only of 64, 128 and 256")
    packed = isinstance(out, Int8Vector)
    if packed and head_dim not in PACKED_HEADS:
        raise ValueError(f"heads of {head_dim} are not written as int8, only {PACKED_HEADS}")
    target = out.tensors if isinstance(out, Int8Vector) else (out, out, out)
    half = head_dim // 2
    _decode_kernel[(workspace.splits, n_heads // workspace.heads)](
        qkv, qkv if q_norm is None else q_norm, qkv if k_norm is None else k_norm, eps, cos_sin,
        position, k_cache, v_cache, *(scales or (k_cache, v_cache)), *target,
        workspace.partial, workspace.lse, workspace.arrived,
        sight.scale * (1.0 if sight.softcap else _LOG2E), sight.softcap or 0.0, capacity,
        N_HEADS=n_heads, N_KV_HEADS=n_kv_heads, HEADS=workspace.heads, HEADS_PAD=16,
        HALF=half, HALF_PAD=max(16, triton.next_power_of_2(half)),
        D_PAD=max(16, triton.next_power_of_2(head_dim)), TILE=_TILE, SPLITS=workspace.splits,
        SPLITS_PAD=triton.next_power_of_2(workspace.splits), NORMED=q_norm is not None,
        PACKED=packed, WINDOW=sight.window or 0, CAPPED=sight.softcap is not None,
        QUANTIZED=scales is not None,
        num_warps=4 if head_dim <= 128 and (scales is None or head_dim <= 64) else 8,
        num_stages=1, **(launch_options(qkv.device) if early else {"PDL": False}),
    )  # fmt: skip
