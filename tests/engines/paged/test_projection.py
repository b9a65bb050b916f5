"""Products of packed weights, whatever the number of rows."""

from __future__ import annotations

import pytest
import torch

from enginebench_paged.projection import Projection, _padded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 16, 17, 63, 65, 130])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "plain"])
def test_rows_of_any_number_are_multiplied(dtype: torch.dtype, rows: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(40, 96, generator=generator).to(dtype)
    bias = torch.randn(40, generator=generator).to(dtype) if with_bias else None
    x = torch.randn(rows, 96, generator=generator).to(dtype)
    product = Projection(weight.clone(), bias)(x)
    expected = x.float() @ weight.float().T + (0.0 if bias is None else bias.float())
    assert product.shape == (rows, 40)
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    assert (product.float() - expected).abs().max().item() <= tolerance


def test_few_sizes_stand_for_all() -> None:
    sizes = {len(_padded(torch.empty(rows, 4))) for rows in range(1, 257)}
    assert len(sizes) == 16 + 6 + 6
    assert all(0 <= len(_padded(torch.empty(rows, 4))) - rows < 32 for rows in range(1, 257))
