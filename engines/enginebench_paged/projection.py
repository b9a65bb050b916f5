"""A weight matrix ready to be multiplied with.

On a CPU with oneDNN the matrix is repacked once into the blocked layout that its kernels read:
measured on an AVX512-BF16 core, bf16 products of 1 to 16 rows then take 0.6-0.75 of the time that
torch's plain `linear` takes (f32: 0.65 from 2 rows up, equal for one). On a GPU the plain matrix
is what kernels want.
"""

from __future__ import annotations

import torch
from torch import Tensor

from enginebench_paged.kernels import ops

__all__ = ["Projection"]

_USUAL_ROWS = 16  # the layout is chosen for this many and serves all others


class Projection:
    """y = x W^T + b for x (rows, in), W (out, in)."""

    __slots__ = ("_packed", "bias", "nbytes", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` is not kept where a packed copy takes its place."""
        self.weight: Tensor | None = weight
        self.bias = bias
        self.nbytes = weight.nbytes + (0 if bias is None else bias.nbytes)
        self._packed: Tensor | None = None
        if _packs(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)
            self.weight = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is not None:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._packed, self.bias, "none", [], ""
            )
            return product
        assert self.weight is not None
        return ops.linear(x, self.weight, self.bias)


def _packs(weight: Tensor) -> bool:
    """Whether this build of torch, on this CPU, has fast products of packed weights."""
    if weight.is_cuda or not torch._C._has_mkldnn:
        return False
    mkldnn = torch.ops.mkldnn
    if not (hasattr(mkldnn, "_reorder_linear_weight") and hasattr(mkldnn, "_linear_pointwise")):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
