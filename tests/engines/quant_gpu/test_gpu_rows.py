"""Norm and SiLU of a chunk's rows."""

import pytest
import torch
from packed_cases import relative_error

from enginebench_quant.kernels.gpu import elementwise, reference


@pytest.mark.parametrize("columns", [1, 63, 1000])
def test_add_rms_norm(columns, device) -> None:
    x, delta = torch.randn(2, 5, columns, device=device)
    weight = torch.randn(columns, device=device)
    twin = x.clone()
    found, expected = torch.full((2, 5, columns), torch.nan, device=device)
    for change in (None, delta):
        elementwise.add_rms_norm(x, change, weight, 1e-5, found)
        reference.add_rms_norm(twin, change, weight, 1e-5, expected)
        assert relative_error(found, expected) < 1e-6
        assert torch.equal(x, twin)
    elementwise.add_rms_norm(x, delta, None, 0.0, None)
    assert torch.equal(x, twin + delta)


@pytest.mark.parametrize("columns", [1, 63, 3000])
def test_gate_mul(columns, device) -> None:
    gate_up = torch.randn(3, 2 * columns, device=device) * 4
    found, expected = torch.full((2, 3, columns), torch.nan, device=device)
    elementwise.gate_mul(gate_up, found)
    reference.gate_mul(gate_up, expected)
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gates_of_either_activation(activation, device) -> None:
    gate_up = torch.randn(3, 2 * 130, device=device) * 4
    found, expected = torch.full((2, 3, 130), torch.nan, device=device)
    elementwise.gate_mul(gate_up, found, activation=activation)
    reference.gate_mul(gate_up, expected, activation=activation)
    assert relative_error(found, expected) < 1e-5


def test_a_normed_part_joins_the_stream(device) -> None:
    found = torch.randn(3, 300, device=device)
    expected = found.clone()
    delta, weight = torch.randn(3, 300, device=device).bfloat16(), torch.randn(300, device=device)
    elementwise.norm_add(found, delta, weight, 1e-5)
    reference.norm_add(expected, delta, weight, 1e-5)
    assert relative_error(found, expected) < 1e-5
