"""The kernels by the names that models call: Triton where the tensors are on a GPU, else plain torch.

Signatures and shapes are described in `reference`.
"""

from enginebench_paged.kernels.reference import (
    add_rms_norm,
    linear,
    paged_attention,
    rms_norm,
    rope_and_cache,
    sample,
    silu_mul,
)

__all__ = [
    "add_rms_norm",
    "linear",
    "paged_attention",
    "rms_norm",
    "rope_and_cache",
    "sample",
    "silu_mul",
]
