"""What stands between the products of a prefill: norms, rotation, the gate.

Rows are tokens, one launch for all of them. The residual stream is f32, what goes into products
bf16, the cache f16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_models.config import Activation
from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options

__all__ = ["activated", "add_rms_norm", "gate_mul", "norm_add", "rope_and_cache"]


@triton.jit
def _add_rms_norm_kernel(
    x, delta, weight, out, eps,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, NORM: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < COLUMNS
    at = row * COLUMNS + column
    value = tl.load(x + at, mask=inside, other=0.0)
    if ADD:
        value += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + at, value, mask=inside)
    if NORM:
        scale = tl.load(weight + column, mask=inside, other=0.0)
        mean = tl.sum(value * value, axis=0) / COLUMNS
        normed = value * tl.rsqrt(mean + eps) * scale
        tl.store(out + at, normed.to(out.dtype.element_ty), mask=inside)


def add_rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, eps: float, out: Tensor | None
) -> None:
    """Twin of reference.add_rms_norm: x (T, N) f32 grows by `delta` in place, `out` is its norm."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    _add_rms_norm_kernel[(rows,)](
        x, x if delta is None else delta, x if weight is None else weight,
        x if out is None else out, eps,
        COLUMNS=columns, BLOCK=block, ADD=delta is not None, NORM=out is not None,
        num_warps=min(16, max(1, block // 512)), **launch_options(x.device),
    )  # fmt: skip


@triton.jit
def _norm_add_kernel(
    x, delta, weight, eps, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    await_previous(PDL)
    column = tl.arange(0, BLOCK)
    inside = column < COLUMNS
    at = tl.program_id(0).to(tl.int64) * COLUMNS + column
    value = tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value * value, axis=0) / COLUMNS
    normed = value * tl.rsqrt(mean + eps) * tl.load(weight + column, mask=inside, other=0.0)
    tl.store(x + at, tl.load(x + at, mask=inside, other=0.0) + normed, mask=inside)


def norm_add(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> None:
    """Twin of reference.norm_add."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    _norm_add_kernel[(rows,)](
        x, delta, weight, eps, COLUMNS=columns, BLOCK=block,
        num_warps=min(16, max(1, block // 512)), **launch_options(x.device),
    )  # fmt: skip


@triton.jit
def activated(gate, GELU: tl.constexpr):
    """silu, or gelu by its tanh formula: both are gate * sigmoid of something."""
    inner = gate
    if GELU:
        # fma said aloud: else what the compiler makes one differs from kernel to kernel
        inner = 1.5957691216057308 * tl.fma(0.044715 * gate * gate, gate, gate)
        inner = tl.maximum(inner, -80.0)  # the exponential stays finite
    return gate / (1.0 + tl.exp(-inner))


@triton.jit
def _gate_mul_kernel(
    gate_up, out, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr, PDL: tl.constexpr
):
    await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COLUMNS
    source = gate_up + row * (2 * COLUMNS) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + COLUMNS, mask=inside, other=0.0).to(tl.float32)
    value = activated(gate, GELU) * up
    tl.store(out + row * COLUMNS + column, value.to(out.dtype.element_ty), mask=inside)


def gate_mul(gate_up: Tensor, out: Tensor, *, activation: Activation = "silu") -> None:
    """Twin of reference.gate_mul: (T, 2 * I) to (T, I)."""
    rows, columns = out.shape
    block = min(2048, triton.next_power_of_2(columns))
    _gate_mul_kernel[(rows, triton.cdiv(columns, block))](
        gate_up, out, COLUMNS=columns, BLOCK=block, GELU=activation == "gelu_tanh", num_warps=4,
        **launch_options(out.device),
    )  # fmt: skip


@triton.jit
def _rope_cache_kernel(
    qkv, bias, q_norm, k_norm, eps, cos_sin, span, k_cache, v_cache, q_out, capacity,
    N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HALF: tl.constexpr, HALF_PAD: tl.constexpr,
    HEADS: tl.constexpr, BIAS: tl.constexpr, NORMED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    D: tl.constexpr = 2 * HALF
    Q_GROUPS: tl.constexpr = (N_HEADS + HEADS - 1) // HEADS
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    is_query = group < Q_GROUPS
    count = tl.load(span + 1)
    position = tl.load(span).to(tl.int64) + token
    if token < count:
        half = tl.arange(0, HALF_PAD)[None, :]
        angles = cos_sin + position * D + half
        cos = tl.load(angles, mask=half < HALF, other=0.0)
        sin = tl.load(angles + HALF, mask=half < HALF, other=0.0)
        own = tl.arange(0, HEADS)[:, None]
        if is_query:
            head = group * HEADS + own
            real = head < N_HEADS
            low, high = _biased(
                qkv, bias, q_norm, eps, cos, sin, token, head, real,
                N_HEADS + 2 * N_KV_HEADS, HALF, HALF_PAD, BIAS, NORMED,
            )  # fmt: skip
            to = q_out + (token * N_HEADS + head) * D + half
            tl.store(to, low.to(tl.float16), mask=real & (half < HALF))
            tl.store(to + HALF, high.to(tl.float16), mask=real & (half < HALF))
        else:
            kv_head = (group - Q_GROUPS) * HEADS + own
            real = kv_head < N_KV_HEADS
            low, high = _biased(
                qkv, bias, k_norm, eps, cos, sin, token, N_HEADS + kv_head, real,
                N_HEADS + 2 * N_KV_HEADS, HALF, HALF_PAD, BIAS, NORMED,
            )  # fmt: skip
            place = (kv_head.to(tl.int64) * capacity + position) * D + half
            inside = real & (half < HALF)
            tl.store(k_cache + place, low.to(tl.float16), mask=inside)
            tl.store(k_cache + place + HALF, high.to(tl.float16), mask=inside)
            v_head = N_HEADS + N_KV_HEADS + kv_head
            source = qkv + (token * (N_HEADS + 2 * N_KV_HEADS) + v_head) * D + half
            low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
            high = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
            if BIAS:
                low += tl.load(bias + v_head * D + half, mask=inside, other=0.0)
                high += tl.load(bias + v_head * D + HALF + half, mask=inside, other=0.0)
            tl.store(v_cache + place, low.to(tl.float16), mask=inside)
            tl.store(v_cache + place + HALF, high.to(tl.float16), mask=inside)


@triton.jit
def _biased(
    qkv, bias, norm, eps, cos, sin, token, head, real,
    ALL_HEADS: tl.constexpr, HALF: tl.constexpr, HALF_PAD: tl.constexpr, BIAS: tl.constexpr,
    NORMED: tl.constexpr,
):  # fmt: skip
    """As attention_decode.rotated, with the bias added first."""
    half = tl.arange(0, HALF_PAD)[None, :]
    inside = real & (half < HALF)
    source = qkv + (token * ALL_HEADS + head) * (2 * HALF)
    low = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + HALF + half, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        low += tl.load(bias + head * (2 * HALF) + half, mask=inside, other=0.0)
        high += tl.load(bias + head * (2 * HALF) + HALF + half, mask=inside, other=0.0)
    if NORMED:
        mean = (tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)) / (2 * HALF)
        scale = tl.rsqrt(mean + eps)[:, None]
        low = low * scale * tl.load(norm + half, mask=half < HALF, other=0.0)
        high = high * scale * tl.load(norm + HALF + half, mask=half < HALF, other=0.0)
    return low * cos - high * sin, high * cos + low * sin


def rope_and_cache(
    qkv: Tensor,
    span: Tensor,
    cos_sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    q_out: Tensor,
    *,
    bias: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Twin of reference.rope_and_cache."""
    n_tokens, n_heads, head_dim = q_out.shape
    n_kv_heads, capacity, _ = k_cache.shape
    if qkv.shape != (n_tokens, (n_heads + 2 * n_kv_heads) * head_dim) or not qkv.is_contiguous():
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}, expected all heads of {n_tokens} rows")
    if q_out.dtype != torch.float16 or k_cache.dtype != torch.float16:
        raise ValueError(f"q and the cache must be f16, they are {q_out.dtype}, {k_cache.dtype}")
    heads = 4
    groups = triton.cdiv(n_heads, heads) + triton.cdiv(n_kv_heads, heads)
    _rope_cache_kernel[(n_tokens, groups)](
        qkv, qkv if bias is None else bias, qkv if q_norm is None else q_norm,
        qkv if k_norm is None else k_norm, eps, cos_sin, span, k_cache, v_cache, q_out, capacity,
        N_HEADS=n_heads, N_KV_HEADS=n_kv_heads, HALF=head_dim // 2,
        HALF_PAD=triton.next_power_of_2(head_dim // 2), HEADS=heads, BIAS=bias is not None,
        NORMED=q_norm is not None, num_warps=1, **launch_options(qkv.device),
    )  # fmt: skip
