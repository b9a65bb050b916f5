"""The kernels by the names that models call: Triton for tensors on a GPU, else plain torch.

Signatures and shapes are described in `reference`. On a GPU none of these copies anything to the
host or waits for it, so all of them may be captured in a CUDA graph (after one run outside it,
which compiles). Triton is imported when a tensor on a GPU first asks for it.
"""

from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.nn import functional

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.checks import Scales
from enginebench_paged.kernels.quantized_weight import QuantizedWeight

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


@cache
def _triton(module: str) -> Any:
    return import_module(f"enginebench_paged.kernels.{module}")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    kernels = _triton("norm") if x.is_cuda else reference
    return kernels.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    kernels = _triton("norm") if x.is_cuda else reference
    return kernels.add_rms_norm(x, residual, weight, eps)


def silu_mul(gate_up: Tensor) -> Tensor:
    kernels = _triton("activation") if gate_up.is_cuda else reference
    return kernels.silu_mul(gate_up)


def gelu_mul(gate_up: Tensor) -> Tensor:
    kernels = _triton("activation") if gate_up.is_cuda else reference
    return kernels.gelu_mul(gate_up)


def grouped_linear(
    x: Tensor, weights: Tensor | QuantizedWeight, offsets: Tensor, rows: Tensor | None = None
) -> Tensor:
    kernels = _triton("grouped") if x.is_cuda else reference
    return kernels.grouped_linear(x, weights, offsets, rows)


def fixed_grouped_linear(x: Tensor, weights: Tensor | QuantizedWeight, offsets: Tensor) -> Tensor:
    """`grouped_linear`, each row of which has the same bits whatever the others."""
    kernels = _triton("grouped") if x.is_cuda else reference
    return kernels.fixed_grouped_linear(x, weights, offsets)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The library's product but for few rows, which is bound by reading the weight."""
    if x.is_cuda and x.element_size() == 2:  # the configurations' tiles are sized for halves
        config = _triton("configs").gemv_config(x.device, x.shape[0], *weight.shape)
        if config is not None:
            return _triton("gemv").skinny_linear(x, weight, bias, config=config)
    return functional.linear(x, weight, bias)


def fixed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear`, each row of which has the same bits whatever the others."""
    kernels = _triton("fixed_product") if x.is_cuda else reference
    return kernels.fixed_linear(x, weight, bias)


def quantized_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None, *, fixed: bool = False
) -> Tensor:
    """fp8 weights meet few rows of x as they are (rounding them would be one more launch), and all
    of them with `fixed`, where no row may depend on how many there are.
    """
    if not x.is_cuda:
        return reference.quantized_linear(x, weight, bias)
    if (
        not fixed
        and weight.format.group is None
        and _triton("configs").rounds_rows(x.device, len(x))
    ):
        fp8 = _triton("fp8")
        if fp8.takes(x, weight):
            return fp8.fp8_linear(x, weight, bias)
    return _triton("quantized").quantized_linear(x, weight, bias)


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
    kernels = _triton("rope_cache") if q.is_cuda else reference
    return kernels.rope_and_cache(
        q, k, v, positions, cos_sin, k_cache, v_cache, slots, q_norm, k_norm, eps, scales
    )


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
    """With max_query_len 1 every sequence has exactly one query: the decode kernel takes them.

    In a mixed step the decode kernel is worth a call of its own: the prefill kernel does not
    split long contexts.
    """
    masks: dict[str, Any] = {
        "scale": scale, "window": window, "softcap": softcap, "scales": scales,
    }  # fmt: skip
    cached = (k_cache, v_cache, block_tables, context_lens)
    if not q.is_cuda:
        return reference.paged_attention(q, *cached, query_starts, max_query_len, **masks)
    if max_query_len == 1:
        return _triton("attention_decode").decode_attention(q, *cached, **masks)
    return _triton("attention_prefill").prefill_attention(q, *cached, query_starts, **masks)


def fixed_attention(q: Tensor, *cached: Any, **masks: Any) -> Tensor:
    """`paged_attention`, each query of which has the same bits whatever the others."""
    kernels = _triton("fixed_attention") if q.is_cuda else reference
    return kernels.fixed_attention(q, *cached, **masks)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    kernels = _triton("sampling") if logits.is_cuda else reference
    return kernels.sample(logits, temperature, top_k, top_p, min_p, seeds, positions)
