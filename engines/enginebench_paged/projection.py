"""A weight matrix ready to be multiplied with.

On a CPU with oneDNN the matrix is repacked once into the blocked layout that its kernels read:
measured on an AVX512-BF16 core, bf16 products of 1 to 16 rows then take 0.6-0.75 of the time that
torch's plain `linear` takes (f32: 0.65 from 2 rows up, equal for one). On a GPU the plain matrix
is what kernels want.

oneDNN compiles code for every number of rows that it meets and keeps up to 1,024 such programs, of
0.6 MB each (measured): prompts of ever new lengths would fill hundreds of MB. So rows are padded to
one of few sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from enginebench_paged.kernels import ops
from enginebench_paged.kernels.quantized_weight import QuantizedWeight

__all__ = ["Projection"]

_USUAL_ROWS = 16  # the layout is chosen for this many and serves all others


class Projection:
    """y = x W^T + b for x (rows, in), W (out, in)."""

    __slots__ = ("_packed", "bias", "bits", "size", "weight")

    def __init__(self, weight: Tensor | QuantizedWeight, bias: Tensor | None = None) -> None:
        """`weight` is not kept where a packed copy takes its place."""
        self.weight: Tensor | QuantizedWeight | None = weight
        self.bias = bias
        self.size, self.bits = weight.numel(), 8 * weight.nbytes
        self._packed: Tensor | None = None
        if isinstance(weight, Tensor) and _packs(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)
            self.weight = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is not None:
            rows = len(x)
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                _padded(x), self._packed, self.bias, "none", [], ""
            )
            return product[:rows]
        assert self.weight is not None
        if isinstance(self.weight, QuantizedWeight):
            return ops.quantized_linear(x, self.weight, self.bias)
        return ops.linear(x, self.weight, self.bias)


def _padded(x: Tensor) -> Tensor:
    """x (rows, in) with rows up to a multiple of 8, from 64 of 32; up to 16 they stay as they are.
    What the added ones hold does not matter.
    """
    rows = len(x)
    if rows <= 16:
        return x
    step = 8 if rows <= 64 else 32
    missing = -rows % step
    return functional.pad(x, (0, 0, 0, missing)) if missing else x


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
