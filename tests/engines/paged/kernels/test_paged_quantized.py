"""Products of quantized weights against float64, and what the formats lose."""

from dataclasses import replace

import pytest
import torch
from paged_cases import HALVES, TOLERANCE, relative_error

from enginebench_paged.kernels import fp8, ops, reference
from enginebench_paged.kernels.configs import QuantizedConfig
from enginebench_paged.kernels.quantized import quantized_linear
from enginebench_paged.kernels.quantized_weight import WeightFormat, fp8_rows, quantize

FP8 = WeightFormat(8, None)
INT8, INT8_ZEROS = WeightFormat(8, 32), WeightFormat(8, 64, has_zeros=True)
INT4, INT4_ZEROS = WeightFormat(4, 32), WeightFormat(4, 64, has_zeros=True)
FORMATS = [FP8, INT8, INT8_ZEROS, INT4, INT4_ZEROS]
VECTOR = QuantizedConfig(rows=4, columns=1, split_k=1, num_warps=4, num_stages=1, depth=2)
VECTOR_SPLIT = replace(VECTOR, split_k=3)
MATRIX = QuantizedConfig(rows=16, columns=16, split_k=1, num_warps=4, num_stages=2)
MATRIX_SPLIT = replace(MATRIX, split_k=2)


def _exact(x, weight, bias=None):
    product = x.double().cpu() @ weight.dequantized().double().cpu().T
    return product if bias is None else product + bias.double().cpu()


def _on(device, weight):
    zeros = None if weight.zeros is None else weight.zeros.to(device)
    return replace(
        weight, values=weight.values.to(device), scales=weight.scales.to(device), zeros=zeros
    )


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k", "config"),
    [
        (1, 33, 128, VECTOR),
        (1, 5, 200, VECTOR_SPLIT),
        (3, 33, 100, MATRIX),
        (16, 40, 256, MATRIX_SPLIT),
        (35, 17, 63, MATRIX),
    ],
)
def test_products(device, format, m, n, k, config, dtype) -> None:
    x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k)
    weight[n // 2] = 0
    held, bias = quantize(weight, format), (torch.randn(n) * 9).to(dtype) if n != 40 else None
    expected = _exact(x, held, bias)
    if format is not FP8:  # whose twin rounds x as well
        assert relative_error(reference.quantized_linear(x, held, bias), expected) < 3e-3
    out = torch.full((m, n), torch.nan, dtype=dtype, device=device)
    there = None if bias is None else bias.to(device)
    quantized_linear(x.to(device), _on(device, held), there, out=out, config=config)
    assert relative_error(out, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("format", "loss", "bits"),
    [
        (FP8, 0.03, 8 + 32 / 256),
        (INT8, 0.006, 8.5),
        (INT8_ZEROS, 0.006, 8 + 24 / 64),
        (INT4, 0.1, 4.5),
        (INT4_ZEROS, 0.1, 4 + 24 / 64),
    ],
    ids=str,
)
def test_what_a_format_loses_and_takes(format, loss, bits) -> None:
    weight = torch.randn(64, 256)
    held = quantize(weight, format)
    assert loss / 4 < relative_error(held.dequantized(), weight) < loss
    assert 8 * held.nbytes == bits * weight.numel()


def test_zeros_pay_where_values_lie_on_one_side() -> None:
    weight = torch.rand(8, 64) + 0.2
    plain, zeros = (quantize(weight, replace(INT4, group=64, has_zeros=z)) for z in (False, True))
    lost = [relative_error(held.dequantized(), weight) for held in (plain, zeros)]
    assert lost[1] < 0.7 * lost[0]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_chunks_and_stacks_change_nothing(format, monkeypatch) -> None:
    weight = torch.randn(3, 7, 96)
    whole = quantize(weight, format)
    monkeypatch.setattr("enginebench_paged.kernels.quantized_weight._CHUNK_VALUES", 4 * 96)
    again = quantize(weight, format)
    assert torch.equal(whole.dequantized(), again.dequantized())
    alone = quantize(weight[1], format)
    assert torch.equal(whole[1].dequantized(), alone.dequantized())
    assert whole.dequantized().shape == weight.shape


def test_a_row_of_nothing_stays_nothing() -> None:
    for format in FORMATS:
        assert not quantize(torch.zeros(2, 64), format).dequantized().any()


def test_rows_rounded_to_fp8(device) -> None:
    x = torch.randn(5, 100) * torch.tensor([1e-3, 1, 50, 0, 1e4])[:, None]
    values, scales = fp8_rows(x)
    found, found_scales = fp8.fp8_rows(x.to(device))
    assert torch.allclose(found_scales.cpu(), scales, rtol=1e-6)
    assert (found.cpu().float() != values.float()).sum() <= 2  # ties, after a division
    assert relative_error(values.float() * scales, x) < 0.04
    assert values.float().abs().amax(1).tolist() == [448, 448, 448, 0, 448]


def test_the_twin_of_fp8_products_rounds_both_sides() -> None:
    x, weight = torch.randn(6, 128), torch.randn(24, 128)
    held, bias = quantize(weight, FP8), torch.randn(24)
    exact = x.double() @ weight.double().T + bias.double()
    weights_only = relative_error(_exact(x, held, bias), exact)
    both = relative_error(reference.quantized_linear(x, held, bias), exact)
    assert weights_only * 1.1 < both < 0.06


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the library's fp8 product")
@pytest.mark.parametrize("m", [1, 16, 17, 200])
def test_fp8_on_a_gpu(m) -> None:
    x = torch.randn(m, 256, device="cuda", dtype=torch.bfloat16)
    held = quantize(torch.randn(64, 256, device="cuda"), FP8)
    bias = torch.randn(64, device="cuda", dtype=torch.bfloat16)
    twin = reference.quantized_linear(x, held, bias)
    assert relative_error(fp8.fp8_linear(x, held, bias), twin) < TOLERANCE[torch.bfloat16]
    assert relative_error(ops.quantized_linear(x, held, bias), twin) < 0.06


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the configurations of the chip")
@pytest.mark.parametrize("format", [replace(INT8, group=128), replace(INT4_ZEROS, group=128)])
@pytest.mark.parametrize("m", [1, 2, 16, 17, 64, 65, 300])
@pytest.mark.parametrize(("n", "k"), [(2048, 576), (10000, 1536)])
def test_all_configurations_of_the_chip(format, m, n, k) -> None:
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    held = quantize(torch.randn(n, k, device="cuda"), format)
    found = ops.quantized_linear(x, held)
    assert relative_error(found, _exact(x, held)) < TOLERANCE[torch.bfloat16]


def test_launcher_names_what_is_wrong(device) -> None:
    held = _on(device, quantize(torch.randn(8, 64), INT8))
    with pytest.raises(ValueError, match="x has 32 columns, the weight 64"):
        quantized_linear(torch.randn(1, 32, device=device), held)
    with pytest.raises(ValueError, match="takes one row, x has 2"):
        quantized_linear(torch.randn(2, 64, device=device), held, config=VECTOR)


def test_values_between_two_steps_cost_no_more_than_a_sixteenth_of_one() -> None:
    """As those of a model that had 4 bits already: all of a group lie as far off the steps."""
    steps = torch.randint(0, 16, (32, 64)).float()
    steps[:, 0], steps[:, 1] = 0, 15
    weight = (steps - torch.rand(32, 1) * 15) / 32
    held = quantize(weight, INT4_ZEROS)
    assert (held.dequantized() - weight).abs().max() <= 1.1 / 32 / 32 + 15 / 32 / 256
