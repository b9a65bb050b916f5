"""Packed rows written out: bit for bit what the file's blocks give."""

import pytest
import torch
from packed_cases import random_planes

from enginebench_quant.kernels.gpu import expand, reference
from enginebench_quant.kernels.gpu.planes import FORMATS


@pytest.mark.parametrize("kind", FORMATS)
def test_all_rows(kind, device) -> None:
    matrix = random_planes(kind, 9, 768, device)
    found, expected = torch.full((2, 9, 768), torch.nan, device=device)
    expand.expand(matrix, found)
    reference.expand(matrix, expected)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_chosen_rows_of_odd_blocks(kind, device) -> None:
    matrix = random_planes(kind, 9, 96, device)
    ids = torch.tensor([8, 0, 8], dtype=torch.int32, device=device)
    found, expected = torch.full((2, 3, 96), torch.nan, device=device)
    expand.expand(matrix, found, ids=ids)
    reference.expand(matrix, expected, ids=ids)
    assert torch.equal(found, expected)


def test_out_must_fit(device) -> None:
    with pytest.raises(ValueError, match=r"expected contiguous \(9, 96\)"):
        expand.expand(random_planes("Q4_0", 9, 96, device), torch.empty(9, 64, device=device))
