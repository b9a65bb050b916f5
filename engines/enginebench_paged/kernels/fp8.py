"""Products in fp8: x rounded with a scale a row, then the library's product, scaled by row and
column.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import require, require_dense_rows
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options
from enginebench_paged.kernels.quantized_weight import FP8, QuantizedWeight


@triton.jit
def _rows_kernel(x, out, scales, x_stride, K: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < K
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.max(tl.abs(value), axis=0) / 448.0
    scale = tl.where(scale > 0, scale, 1.0)
    value = tl.clamp(value / scale, -448.0, 448.0)
    tl.store(out + row * K + column, value.to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


def fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Twin of quantized_weight.fp8_rows."""
    require(x.dim() == 2, f"x has shape {tuple(x.shape)}, expected (rows, K)")
    require_dense_rows(x=x)
    rows, k = x.shape
    out = torch.empty((rows, k), dtype=FP8, device=x.device)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    if rows:
        block = triton.next_power_of_2(k)
        _rows_kernel[(rows,)](
            x, out, scales, x.stride(0), K=k, BLOCK=block,
            num_warps=min(16, max(1, block // 1024)), **launch_options(x.device),
        )  # fmt: skip
    return out, scales


def takes(x: Tensor, weight: QuantizedWeight) -> bool:
    """Whether the library has this product: bf16 results, sizes in whole steps of 16."""
    return x.dtype == torch.bfloat16 and weight.rows % 16 == 0 and weight.columns % 16 == 0


def fp8_linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """Twin of reference.quantized_linear for fp8 weights."""
    rounded, scales = fp8_rows(x)
    product: Tensor = torch._scaled_mm(
        rounded, weight.values.t(), scale_a=scales, scale_b=weight.scales.t(),
        out_dtype=torch.bfloat16,
    )  # fmt: skip
    return product if bias is None else product + bias
