"""Norms, the activation, and rotation with the cache write, each against its twin."""

import pytest
import torch
from paged_cases import HALVES, TOLERANCE, relative_error
from torch import Tensor

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.activation import gelu_mul, silu_mul
from enginebench_paged.kernels.norm import add_rms_norm, rms_norm
from enginebench_paged.kernels.rope_cache import rope_and_cache

TYPES = [torch.float32, *HALVES]


def _poison(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 63), (2, 1000), (5, 2048)])
def test_rms_norm(device, rows, columns, dtype) -> None:
    x = torch.randn(rows, columns, device=device).to(dtype) * 3
    weight = torch.randn(columns, device=device).to(dtype)
    out = _poison(rows, columns, dtype=dtype, device=device)
    assert rms_norm(x, weight, 1e-5, out=out) is out
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    assert relative_error(out, exact * weight.double()) < TOLERANCE[dtype]
    assert relative_error(reference.rms_norm(x, weight, 1e-5), out) < TOLERANCE[dtype]


def test_rms_norm_of_a_slice_leaves_its_neighbours_out(device) -> None:
    merged = torch.randn(4, 96, device=device)
    weight = torch.randn(32, device=device)
    x = merged[:, 32:64]
    expected = reference.rms_norm(x.contiguous(), weight, 1e-6)
    assert relative_error(rms_norm(x, weight, 1e-6), expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", TYPES)
def test_add_rms_norm(device, dtype) -> None:
    x, residual = torch.randn(2, 3, 130, device=device).to(dtype)
    weight = torch.randn(130, device=device).to(dtype)
    expected, expected_total = reference.add_rms_norm(x, residual, weight, 1e-5)
    normed, total = add_rms_norm(x, residual, weight, 1e-5, total_out=residual)
    assert total is residual
    assert torch.equal(total, expected_total)
    assert relative_error(normed, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 63), (3, 1024), (2, 1500)])
def test_silu_mul(device, rows, columns, dtype) -> None:
    gate_up = torch.randn(rows, 2 * columns, device=device).to(dtype) * 4
    out = silu_mul(gate_up, out=_poison(rows, columns, dtype=dtype, device=device))
    gate, up = gate_up.double().chunk(2, -1)
    assert relative_error(out, gate * gate.sigmoid() * up) < TOLERANCE[dtype]
    assert (
        relative_error(reference.silu_mul(gate_up), gate * gate.sigmoid() * up) < TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 63), (2, 1500)])
def test_gelu_mul(device, rows, columns, dtype) -> None:
    gate_up = torch.randn(rows, 2 * columns, device=device).to(dtype) * 4
    out = gelu_mul(gate_up, out=_poison(rows, columns, dtype=dtype, device=device))
    gate, up = gate_up.double().chunk(2, -1)
    exact = torch.nn.functional.gelu(gate, approximate="tanh") * up
    assert relative_error(out, exact) < TOLERANCE[dtype]
    assert relative_error(reference.gelu_mul(gate_up), exact) < TOLERANCE[dtype]


def test_no_rows_are_no_work(device) -> None:
    assert silu_mul(torch.empty(0, 8, device=device)).shape == (0, 4)
    assert (
        rms_norm(torch.empty(0, 8, device=device), torch.ones(8, device=device), 1e-5).shape[0] == 0
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "head_dim"), [(9, 3, 64), (2, 1, 80), (5, 5, 16)]
)
def test_rope_and_cache(device, n_heads, n_kv_heads, head_dim, normed, dtype) -> None:
    n_tokens, block_size = 5, 16
    width = (n_heads + 2 * n_kv_heads) * head_dim
    merged = torch.randn(n_tokens, width, device=device).to(dtype)
    parts = merged.split([n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * head_dim], -1)
    q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in parts)  # strided views
    norms = torch.randn(2, head_dim, device=device).to(dtype) if normed else (None, None)
    positions = torch.tensor([0, 5, 17, 3, 99], device=device)
    slots = torch.tensor([40, 0, -1, 33, 15], device=device)
    angle = torch.rand(100, head_dim // 2, device=device) * 6
    cos_sin = torch.cat((angle.cos(), angle.sin()), -1)
    caches = [
        _poison(2, 3, n_kv_heads, block_size, head_dim, dtype=dtype, device=device)
        for _ in range(2)
    ]
    found, expected = (
        function(q, k, v, positions, cos_sin, *cache, slots, *norms, 1e-5)
        for function, cache in zip((rope_and_cache, reference.rope_and_cache), caches, strict=True)
    )
    assert relative_error(found, expected) < TOLERANCE[dtype]
    written = caches[1].isfinite()
    assert written.sum() == 2 * 4 * n_kv_heads * head_dim
    assert torch.equal(caches[0].isfinite(), written)
    assert relative_error(caches[0][written], caches[1][written]) < TOLERANCE[dtype]


def test_rotation_turns_pairs_half_a_head_apart() -> None:
    """Position 1 at angle 90 degrees for the first pair, 0 for the second: (a, b, c, d) to (-c,
    b, a, d).
    """
    q = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4)
    cos_sin = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    cache = torch.zeros(2, 1, 1, 16, 4)
    one = torch.tensor([1])
    turned = reference.rope_and_cache(q, q, q, one, cos_sin, *cache, one)
    assert turned.flatten().tolist() == [-3.0, 2.0, 1.0, 4.0]
    assert cache[0, 0, 0, 1].tolist() == [-3.0, 2.0, 1.0, 4.0]
    assert cache[1, 0, 0, 1].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_launchers_name_what_is_wrong(device) -> None:
    x = torch.randn(2, 8, device=device)
    with pytest.raises(ValueError, match=r"weight has shape \(7,\), expected \(8,\)"):
        rms_norm(x, torch.ones(7, device=device), 1e-5)
    with pytest.raises(ValueError, match="must be contiguous"):
        add_rms_norm(x[:, ::2], x[:, ::2], torch.ones(4, device=device), 1e-5)
    with pytest.raises(ValueError, match="odd width of 3"):
        silu_mul(torch.randn(2, 3, device=device))
