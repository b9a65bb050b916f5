"""Products of one row with SiLU and addition, against their twins."""

import pytest
import torch
from paged_cases import TOLERANCE, relative_error

from enginebench_paged.kernels import one_row, reference

# columns: less than a tile, several tiles and a rest, exactly two
SIZES = [(96, 24), (2100, 7), (2048, 33)]
DTYPES = [torch.float32, torch.float16]


def _made(device, k: int, rows: int, dtype):
    x = torch.randn(1, k).to(dtype)
    weight = (torch.randn(rows, k) / k**0.5).to(dtype)
    return x.to(device), weight.to(device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_linear_silu(device, k, n, dtype) -> None:
    x, weight = _made(device, k, 2 * n, dtype)
    found, expected = one_row.linear_silu(x, weight), reference.linear_silu(x, weight)
    assert found.shape == (1, n)
    assert relative_error(found.cpu(), expected.cpu()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_linear_add(device, k, n, dtype) -> None:
    x, weight = _made(device, k, n, dtype)
    residual = torch.randn(1, n).to(device, dtype)
    found = one_row.linear_add(x, weight, residual)
    expected = reference.linear_add(x, weight, residual)
    assert relative_error(found.cpu(), expected.cpu()) < TOLERANCE[dtype]


def test_launchers_name_what_is_wrong(device) -> None:
    x, weight = _made(device, 32, 5, torch.float32)
    with pytest.raises(ValueError, match="even"):
        one_row.linear_silu(x, weight)
    with pytest.raises(ValueError, match="they must agree"):
        one_row.linear_silu(x.half(), weight[:4])
    with pytest.raises(ValueError, match="x has shape"):
        one_row.linear_add(x.expand(2, -1), weight, x[:, :5].contiguous())
