"""Skinny products against float64: both kernels, K in parts, odd sizes."""

import pytest
import torch
from paged_cases import HALVES, TOLERANCE, relative_error

from enginebench_paged.kernels.configs import DotConfig, FmaConfig
from enginebench_paged.kernels.gemv import skinny_linear

FMA = FmaConfig(rows=4, columns=64, split_k=1, num_warps=4)
FMA_SPLIT = FmaConfig(rows=2, columns=32, split_k=3, num_warps=1)
DOT = DotConfig(rows=16, columns=32, split_k=1, num_warps=4, num_stages=2)
DOT_SPLIT = DotConfig(rows=32, columns=16, split_k=5, num_warps=4, num_stages=2)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("n", "k"), [(1, 63), (40, 128), (33, 100)])
@pytest.mark.parametrize(
    ("m", "config"),
    [
        (1, FMA),
        (1, FMA_SPLIT),
        (1, DOT),
        (3, DOT),
        (16, DOT),
        (33, DOT),
        (2, DOT_SPLIT),
        (64, DOT_SPLIT),
    ],
)
def test_skinny_linear(device, m, config, n, k, with_bias, dtype) -> None:
    x = torch.randn(m, k, device=device).to(dtype)
    weight = torch.randn(n, k, device=device).to(dtype)
    bias = torch.randn(n, device=device).to(dtype) * 9 if with_bias else None
    out = torch.full((m, n), torch.nan, dtype=dtype, device=device)
    assert skinny_linear(x, weight, bias, out=out, config=config) is out
    expected = x.double() @ weight.double().T
    if bias is not None:
        expected = expected + bias.double()
    assert relative_error(out, expected) < TOLERANCE[dtype]


def test_strided_rows_and_a_slice_of_the_weight(device) -> None:
    x = torch.randn(4, 128, device=device)[::2, :64]
    weight = torch.randn(40, 128, device=device)[:, 64:]
    found = skinny_linear(x, weight, config=DOT)
    assert relative_error(found, x.double() @ weight.double().T) < TOLERANCE[torch.float32]


def test_the_same_bits_every_time(device) -> None:
    x, weight = torch.randn(2, 500, device=device), torch.randn(30, 500, device=device)
    first = skinny_linear(x, weight, config=DOT_SPLIT)
    assert all(torch.equal(first, skinny_linear(x, weight, config=DOT_SPLIT)) for _ in range(3))


def test_launcher_names_what_is_wrong(device) -> None:
    weight = torch.randn(8, 32, device=device)
    with pytest.raises(ValueError, match="takes 1 to 64"):
        skinny_linear(torch.randn(65, 32, device=device), weight)
    with pytest.raises(ValueError, match="they must agree"):
        skinny_linear(torch.randn(1, 32, device=device).half(), weight)
    with pytest.raises(ValueError, match="takes one row, x has 2"):
        skinny_linear(torch.randn(2, 32, device=device), weight, config=FMA)
