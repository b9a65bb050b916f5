"""Products of one row with norm, SiLU and addition, against their twins."""

import pytest
import torch
from paged_cases import TOLERANCE, relative_error

from enginebench_paged.kernels import one_row, reference

# columns: less than a tile, several tiles and a rest, exactly two
SIZES = [(96, 24), (2100, 7), (2048, 33)]
DTYPES = [torch.float32, torch.float16]


def _made(device, k: int, rows: int, dtype):
    x = torch.randn(1, k).to(dtype)
    norm = torch.rand(k) + 0.5
    weight = (torch.randn(rows, k) / k**0.5).to(dtype)
    return [tensor.to(device) for tensor in (x, norm, weight)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "n"), SIZES)
@pytest.mark.parametrize("biased", [False, True])
def test_norm_linear(device, k, n, biased, dtype) -> None:
    x, norm, weight = _made(device, k, n, dtype)
    bias = torch.randn(n).to(device, dtype) if biased else None
    found = one_row.norm_linear(x, norm, 1e-5, weight, bias)
    expected = reference.norm_linear(x, norm, 1e-5, weight, bias)
    assert relative_error(found.cpu(), expected.cpu()) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_norm_linear_silu(device, k, n, dtype) -> None:
    x, norm, weight = _made(device, k, 2 * n, dtype)
    found = one_row.norm_linear_silu(x, norm, 1e-5, weight)
    expected = reference.norm_linear_silu(x, norm, 1e-5, weight)
    assert found.shape == (1, n)
    assert relative_error(found.cpu(), expected.cpu()) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_linear_add(device, k, n, dtype) -> None:
    x, _, weight = _made(device, k, n, dtype)
    residual = torch.randn(1, n).to(device, dtype)
    found = one_row.linear_add(x, weight, residual)
    expected = reference.linear_add(x, weight, residual)
    assert relative_error(found.cpu(), expected.cpu()) < 2 * TOLERANCE[dtype]


def test_launchers_name_what_is_wrong(device) -> None:
    x, norm, weight = _made(device, 32, 5, torch.float32)
    with pytest.raises(ValueError, match="even"):
        one_row.norm_linear_silu(x, norm, 1e-5, weight)
    with pytest.raises(ValueError, match="expected float32"):
        one_row.norm_linear(x, norm.half(), 1e-5, weight)
    with pytest.raises(ValueError, match="x has shape"):
        one_row.linear_add(x.expand(2, -1), weight, x)
