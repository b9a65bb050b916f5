"""Norm, SwiGLU and quantization of activations, against plain numpy."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from enginebench_quant.kernels.activations import BLOCK, BLOCK_BYTES
from enginebench_quant.kernels.reference import quantize_activations, rms_norm, silu_mul
from enginebench_quant.kernels.table import Kernels

KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
Floats = NDArray[np.float32]


def run(kernel: int, values: list[int], end: int) -> None:
    KERNEL(kernel)(np.array(values, np.int64).ctypes.data, 0, end, 0)


def blocks_for(x: Floats, tile: int) -> NDArray[np.uint8]:
    tiles, blocks = -(-len(x) // tile), x.shape[1] // BLOCK
    return np.full((tiles, blocks, tile, BLOCK_BYTES), 0xEE, np.uint8)


def read_blocks(stored: NDArray[np.uint8], tokens: int) -> Floats:
    """What the quantized blocks stand for, after checking their sums."""
    by_token = stored.swapaxes(1, 2).reshape(-1, stored.shape[1], BLOCK_BYTES)[:tokens]
    codes = by_token[..., :32].view(np.int8).astype(np.int32)
    fields = np.ascontiguousarray(by_token[..., 32:48])
    scale, scaled_sum = fields[..., 0:4].view(np.float32), fields[..., 4:8].view(np.float32)
    sums = codes.sum(-1, keepdims=True)
    assert (fields[..., 8:12].view(np.int32) == -sums).all()
    assert (fields[..., 12:16].view(np.int32)[..., 0] == -codes[..., :16].sum(-1)).all()
    assert np.allclose(scaled_sum, scale * sums, rtol=1e-6)
    assert codes.min() >= -127
    return (codes * scale).reshape(tokens, -1).astype(np.float32)


def inputs(tokens: int, columns: int) -> Floats:
    x = np.random.default_rng(tokens).standard_normal((tokens, columns), np.float32)
    x[0, :BLOCK] = 0  # a block of zeros has no scale
    return x * np.float32(10.0) ** np.arange(-2, tokens - 2, dtype=np.float32)[:, None]


@pytest.mark.parametrize("tokens, tile", [(1, 1), (5, 4), (8, 8), (3, 8)])
def test_quantize(kernels: Kernels, tokens: int, tile: int) -> None:
    x = inputs(tokens, 96)
    stored, state = blocks_for(x, tile), np.array([tokens, 0], np.int64)
    end = tokens * 3 + 50  # units past the last token are left alone
    run(
        kernels.quantize(tile),
        [x.ctypes.data, x.strides[0], 3, stored.ctypes.data, state.ctypes.data],
        end,
    )
    assert np.allclose(read_blocks(stored, tokens), quantize_activations(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("width", [64, 50])
def test_norm_keeps_floats_and_quantizes(kernels: Kernels, width: int) -> None:
    """A width that fills no block is padded with zeros, which the mean must not count."""
    x = np.zeros((5, 64), np.float32)
    x[:, :width] = inputs(5, 64)[:, :width]
    weight = np.zeros(64, np.float32)
    weight[:width] = np.random.default_rng(1).standard_normal(width, np.float32)
    out, stored = np.full_like(x, np.nan), blocks_for(x, 4)
    state, eps = np.array([5, 0], np.int64), struct.unpack("<i", struct.pack("<f", 1e-5))[0]
    values = [x.ctypes.data, x.strides[0], weight.ctypes.data, width, 2, eps]
    run(kernels.norm(4), [*values, out.ctypes.data, stored.ctypes.data, state.ctypes.data], 9)
    expected = rms_norm(x[:, :width], weight[:width], 1e-5)
    assert np.allclose(out[:, :width], expected, rtol=1e-5, atol=1e-6)
    assert not out[:, width:].any()
    assert np.allclose(read_blocks(stored, 5), quantize_activations(out), rtol=1e-6, atol=1e-9)


def test_silu_mul(kernels: Kernels) -> None:
    random = np.random.default_rng(0)
    gate = (random.standard_normal((3, 96), np.float32) * 20).astype(np.float32)
    gate[0, :4] = [-200, 200, 0, -88]
    up = random.standard_normal((3, 96), np.float32)
    expected = silu_mul(np.clip(gate, -87, None), up)
    stored, state = blocks_for(gate, 4), np.array([3, 0], np.int64)
    values = [gate.ctypes.data, up.ctypes.data, gate.strides[0], 3, stored.ctypes.data]
    run(kernels.gate(4, "silu"), [*values, state.ctypes.data], 9)
    assert np.allclose(gate, expected, rtol=2e-6, atol=1e-7)
    assert np.allclose(read_blocks(stored, 3), quantize_activations(gate), rtol=1e-6, atol=1e-9)


def test_gelu_mul(kernels: Kernels) -> None:
    random = np.random.default_rng(0)
    gate = (random.standard_normal((3, 96), np.float32) * 4).astype(np.float32)
    gate[0, :4] = [-50, 50, 0, -8]
    up = random.standard_normal((3, 96), np.float32)
    inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate.astype(np.float64) ** 3)
    expected = gate * (1 + np.tanh(inner)) / 2 * up
    stored, state = blocks_for(gate, 4), np.array([3, 0], np.int64)
    values = [gate.ctypes.data, up.ctypes.data, gate.strides[0], 3, stored.ctypes.data]
    run(kernels.gate(4, "gelu_tanh"), [*values, state.ctypes.data], 9)
    assert np.allclose(gate, expected, rtol=2e-5, atol=1e-6)


def test_norm_add(kernels: Kernels) -> None:
    delta, x = inputs(5, 64), np.ones((5, 64), np.float32)
    delta[:, 50:] = 0
    weight = np.zeros(64, np.float32)
    weight[:50] = np.random.default_rng(1).standard_normal(50, np.float32)
    expected = 1 + np.pad(rms_norm(delta[:, :50], weight[:50], 1e-5), ((0, 0), (0, 14)))
    state, eps = np.array([5, 0], np.int64), struct.unpack("<i", struct.pack("<f", 1e-5))[0]
    values = [delta.ctypes.data, delta.strides[0], weight.ctypes.data, 50, 2, eps]
    run(kernels.norm_add(), [*values, x.ctypes.data, state.ctypes.data], 9)
    assert np.allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_cap(kernels: Kernels) -> None:
    x = inputs(2, 96) * 10
    expected = 5 * np.tanh(x.astype(np.float64) / 5)
    state, bits = np.array([2, 0], np.int64), struct.unpack("<i", struct.pack("<f", 5.0))[0]
    run(kernels.cap(), [x.ctypes.data, x.strides[0], 96, bits, state.ctypes.data], 9)
    assert np.allclose(x, expected, rtol=2e-5, atol=2e-6)
