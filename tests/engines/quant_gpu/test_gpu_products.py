"""Products with packed and plain matrices against their twins, for every type and fusion."""

import pytest
import torch
from packed_cases import random_planes, relative_error

from enginebench_quant.kernels.gpu import dense, product, reference
from enginebench_quant.kernels.gpu.configs import ProductConfig
from enginebench_quant.kernels.gpu.planes import FORMATS
from enginebench_quant.kernels.gpu.vector import (
    Int8Vector,
    empty_vector,
    pack_vector,
    unpack_vector,
)

SMALL = ProductConfig(4, 1, 1)  # programs walk over several groups of rows
WIDE = ProductConfig(2, 4, 8)


def vector(size: int, device: torch.device) -> torch.Tensor:
    return torch.randn(size, device=device) * torch.rand(size, device=device) * 5


def nans(size: int, device: torch.device) -> torch.Tensor:
    return torch.full((size,), torch.nan, device=device)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows, columns, config", [(1, 256, WIDE), (37, 768, SMALL)])
def test_product(kind, rows, columns, config, device) -> None:
    matrix = random_planes(kind, rows, columns, device)
    x, norm, bias = (vector(size, device) for size in (columns, columns, rows))
    found, expected = nans(rows, device), nans(rows, device)
    for options in ({}, {"norm": norm, "eps": 1e-5, "bias": bias}):
        product.product(x, [matrix], found, config=config, **options)
        reference.product(x, [matrix], expected, **options)
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("kinds", [("Q4_K", "Q6_K"), ("Q4_0", "Q8_0"), ("Q5_1", "Q5_1")])
@pytest.mark.parametrize("config", [SMALL, None])
def test_two_matrices_in_one_launch(kinds, config, device) -> None:
    matrices = [
        random_planes(kind, rows, 512, device) for kind, rows in zip(kinds, (20, 9), strict=True)
    ]
    x, bias = vector(512, device), vector(29, device)
    found = vector(29, device)
    expected = found.clone()
    product.product(x, matrices, found, bias=bias, add=True, config=config)
    reference.product(x, matrices, expected, bias=bias, add=True)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("kinds", [("Q4_K", "Q4_K"), ("Q4_0", "Q6_K"), ("Q8_0", "Q5_0")])
@pytest.mark.parametrize("config", [SMALL, None])
def test_gate_up(kinds, config, device) -> None:
    gate, up = (random_planes(kind, 21, 768, device, seed) for seed, kind in enumerate(kinds))
    x, norm = vector(768, device), vector(768, device)
    found, expected = nans(21, device), nans(21, device)
    product.gate_up(x, gate, up, found, norm=norm, eps=1e-5, config=config)
    reference.gate_up(x, gate, up, expected, norm=norm, eps=1e-5)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q8_0", "Q5_1"])
def test_a_vector_that_is_quantized_already(kind, device) -> None:
    matrix = random_planes(kind, 37, 768, device)
    x = vector(768, device)
    packed = empty_vector(768, device)
    pack_vector(x, packed)
    assert torch.equal(unpack_vector(packed), reference.quantize_activations(x))
    found = vector(37, device)
    expected = found.clone()
    product.product(packed, [matrix], found, add=True)
    reference.product(x, [matrix], expected, add=True)
    assert relative_error(found, expected) < 1e-5
    with pytest.raises(ValueError, match="cannot be normed"):
        product.product(packed, [matrix], found, norm=x)


@pytest.mark.parametrize("rows", [32, 160])
@pytest.mark.parametrize("config", [SMALL, WIDE, None])
def test_gate_up_quantizes_for_the_next_product(rows, config, device) -> None:
    gate, up = (random_planes("Q4_K", rows, 256, device, seed) for seed in range(2))
    x, norm = vector(256, device), vector(256, device)
    found, expected = empty_vector(rows, device), empty_vector(rows, device)
    found.scales.fill_(torch.nan)
    product.gate_up(x, gate, up, found, norm=norm, eps=1e-5, config=config)
    reference.gate_up(x, gate, up, expected, norm=norm, eps=1e-5)
    assert_as_packed(found, expected)


def assert_as_packed(found: Int8Vector, expected: Int8Vector) -> None:
    """Codes may differ by one where rounding is as good as tied."""
    assert relative_error(found.scales, expected.scales) < 1e-3
    steps = found.words.view(torch.int8).int() - expected.words.view(torch.int8).int()
    assert steps.abs().max() <= 1 and steps.count_nonzero() < 0.02 * steps.numel() + 2
    words = found.words.view(torch.int8).view(2, found.blocks, 16).sum(-1, dtype=torch.int16)
    assert torch.equal(found.sums.view(torch.int16).view(-1, 2), words.T)


def test_columns_that_fill_no_tile(device) -> None:
    matrix = random_planes("Q4_1", 6, 576, device)
    x = vector(576, device)
    found, expected = nans(6, device), nans(6, device)
    product.product(x, [matrix], found)
    reference.product(x, [matrix], expected)
    assert relative_error(found, expected) < 1e-5


def test_a_vector_of_zeros(device) -> None:
    out = nans(5, device)
    matrix = random_planes("Q4_0", 5, 64, device)
    product.product(torch.zeros(64, device=device), [matrix], out)
    assert torch.equal(out, torch.zeros_like(out))


def test_the_twin_is_the_product(device) -> None:
    """Against float64 without quantized activations: only their rounding is between the two."""
    matrix = random_planes("Q6_K", 50, 1024, device)
    x, norm = vector(1024, device), vector(1024, device)
    found = nans(50, device)
    reference.product(x, [matrix], found, norm=norm, eps=1e-5)
    normed = x.double() / torch.sqrt(x.double().square().mean() + 1e-5) * norm
    exact = reference.values(matrix).double() @ normed
    assert 1e-4 < relative_error(found, exact) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows, columns", [(1, 63), (10, 1500)])
def test_dense_product(dtype, rows, columns, device) -> None:
    weight = torch.randn(rows, columns, device=device).to(dtype)
    x, norm, bias = (vector(size, device) for size in (columns, columns, rows))
    found = vector(rows, device)
    expected = found.clone()
    for options in ({}, {"norm": norm, "eps": 1e-5, "bias": bias, "add": True}):
        dense.dense_product(x, weight, found, **options)
        reference.dense_product(x, weight, expected, **options)
        assert relative_error(found, expected) < 1e-5


def test_launchers_name_what_is_wrong(device) -> None:
    matrix = random_planes("Q4_0", 5, 64, device)
    with pytest.raises(ValueError, match="the matrix 64 columns"):
        product.product(torch.zeros(32, device=device), [matrix], nans(5, device))
    with pytest.raises(ValueError, match="the matrices have 10 rows"):
        product.product(torch.zeros(64, device=device), [matrix, matrix], nans(5, device))
    with pytest.raises(ValueError, match="one or two matrices, not 3"):
        product.product(torch.zeros(64, device=device), [matrix] * 3, nans(15, device))


@pytest.mark.parametrize(
    "kind, config",
    [
        ("Q4_K", None),
        pytest.param("Q6_K", SMALL, marks=pytest.mark.slow),
        pytest.param("IQ4_NL", SMALL, marks=pytest.mark.slow),
    ],
)
def test_several_rows_get_what_each_gets_alone(kind, config, device) -> None:
    matrix, below = random_planes(kind, 21, 768, device), random_planes("Q8_0", 8, 768, device)
    x = torch.stack([vector(768, device) for _ in range(3)])
    norm, bias = vector(768, device), vector(29, device)
    found = torch.randn(3, 40, device=device)[:, :29]
    expected = found.clone()
    options = {"norm": norm, "eps": 1e-5, "bias": bias, "add": True, "config": config}
    product.product(x, [matrix, below], found, **options)
    for row, out in zip(x, expected, strict=True):
        product.product(row, [matrix, below], out, **options)
    assert torch.equal(found, expected)
    packed = empty_vector(768, device, 3)
    for index, row in enumerate(x):
        pack_vector(row, packed.row(index))
    product.product(packed, [matrix], found[:, :21], config=config)
    for index, out in enumerate(expected):
        product.product(packed.row(index), [matrix], out[:21], config=config)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("packed, activation", [(False, "gelu_tanh"), (True, "silu")])
@pytest.mark.parametrize("config", [None])
def test_several_gated_rows_get_what_each_gets_alone(packed, activation, config, device) -> None:
    gate, up = (random_planes("Q4_0", 32, 256, device, seed) for seed in range(2))
    x, norm = torch.stack([vector(256, device) for _ in range(3)]), vector(256, device)
    made = [
        empty_vector(32, device, 3) if packed else nans(96, device).view(3, 32) for _ in range(2)
    ]
    options = {"norm": norm, "eps": 1e-5, "config": config, "activation": activation}
    product.gate_up(x, gate, up, made[0], **options)
    for index, row in enumerate(x):
        own = made[1].row(index) if packed else made[1][index]
        product.gate_up(row, gate, up, own, **options)
    if packed:
        pairs = zip(made[0].tensors, made[1].tensors, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    else:
        assert torch.equal(*made)
        reference.gate_up(x, gate, up, made[1], norm=norm, eps=1e-5, activation=activation)
        assert relative_error(*made) < 1e-5


@pytest.mark.parametrize("config", [None])
def test_several_rows_of_gelu_that_are_quantized(config, device) -> None:
    """On a GPU the compiler contracts gelu otherwise there: the rounding of a code may differ."""
    gate, up = (random_planes("Q4_0", 32, 256, device, seed) for seed in range(2))
    x, norm = torch.stack([vector(256, device) for _ in range(3)]), vector(256, device)
    found, expected = empty_vector(32, device, 3), empty_vector(32, device)
    options = {"norm": norm, "eps": 1e-5, "config": config, "activation": "gelu_tanh"}
    product.gate_up(x, gate, up, found, **options)
    for index, row in enumerate(x):
        product.gate_up(row, gate, up, expected, **options)
        assert_as_packed(found.row(index), expected)
