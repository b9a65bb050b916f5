"""Products of sorted rows with the matrices of their groups, and the routing that sorts them."""

import pytest
import torch
from paged_cases import HALVES, TOLERANCE, relative_error

from enginebench_models import Experts
from enginebench_paged.feed_forward import route
from enginebench_paged.kernels import reference
from enginebench_paged.kernels.grouped import grouped_linear
from enginebench_paged.kernels.quantized_weight import WeightFormat, quantize


def _offsets(counts: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *counts], device=device).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    ("counts", "n", "k"),
    [
        ([1], 1, 1),
        ([0, 3, 0, 17, 1], 63, 100),
        ([40, 0, 90], 130, 64),
        ([1, 0, 0, 0, 0, 0, 1, 0, 0], 64, 32),
    ],
)
def test_grouped_linear(device, counts, n, k, dtype) -> None:
    torch.manual_seed(0)
    weights = torch.randn(len(counts), n, k, device=device).to(dtype)
    x, rows = torch.randn(7, k, device=device).to(dtype), torch.randint(7, (sum(counts),))
    rows, offsets = rows.to(device), _offsets(counts, device)
    out = torch.full((sum(counts), n), torch.nan, dtype=dtype, device=device)
    assert grouped_linear(x, weights, offsets, rows, out=out) is out
    group = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)
    exact = torch.einsum("mk,mnk->mn", x[rows].double(), weights[group].double())
    assert relative_error(out, exact) < TOLERANCE[dtype]
    assert (
        relative_error(reference.grouped_linear(x, weights, offsets, rows), exact)
        < (TOLERANCE[dtype])
    )


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    "format",
    [WeightFormat(8, None), WeightFormat(8, 32), WeightFormat(4, 64, has_zeros=True)],
    ids=str,
)
def test_quantized_weights(device, format, dtype) -> None:
    weights = quantize(torch.randn(3, 70, 100, device=device), format)
    x, rows = torch.randn(7, 100, device=device).to(dtype), torch.randint(7, (23,), device=device)
    offsets = _offsets([4, 0, 19], device)
    group = torch.repeat_interleave(torch.arange(3), torch.tensor([4, 0, 19])).to(device)
    whole = weights.dequantized().double()
    exact = torch.einsum("mk,mnk->mn", x[rows].double(), whole[group])
    for kernels in (grouped_linear, reference.grouped_linear):
        assert relative_error(kernels(x, weights, offsets, rows), exact) < TOLERANCE[dtype]


def test_without_rows_x_is_sorted_already(device) -> None:
    x, weights = torch.randn(5, 16, device=device), torch.randn(3, 8, 16, device=device)
    offsets = _offsets([2, 0, 3], device)
    expected = reference.grouped_linear(x, weights, offsets)
    assert relative_error(grouped_linear(x, weights, offsets), expected) < TOLERANCE[torch.float32]


def test_no_rows_at_all(device) -> None:
    weights, offsets = torch.randn(3, 8, 16, device=device), _offsets([0, 0, 0], device)
    assert grouped_linear(torch.empty(0, 16, device=device), weights, offsets).shape == (0, 8)


@pytest.mark.parametrize(
    ("columns", "dtype", "message"),
    [(15, torch.int32, "x has 15 columns, the weights 16"), (16, torch.int64, "offsets is")],
)
def test_what_does_not_fit_is_refused(device, columns, dtype, message) -> None:
    weights = torch.randn(2, 8, 16, device=device)
    offsets = torch.tensor([0, 1, 2], dtype=dtype, device=device)
    with pytest.raises(ValueError, match=message):
        grouped_linear(torch.randn(2, columns, device=device), weights, offsets)


def test_weights_sum_to_one_only_where_they_are_normalized() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    plain, chosen = route(logits, Experts(3, 2, 8, normalized=False))
    assert chosen.tolist() == [[1, 2]]
    assert torch.allclose(plain, logits.softmax(-1)[:, [1, 2]])
    normalized, _ = route(logits, Experts(3, 2, 8, normalized=True))
    assert torch.allclose(normalized, plain / plain.sum())
