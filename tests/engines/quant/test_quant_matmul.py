"""Matrix products of every type at every CPU level, against numpy on dequantized weights."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numpy.typing import NDArray

from enginebench_models import GGMLType, dequantize, quantize
from enginebench_quant.kernels.formats import BLOCK, BLOCK_BYTES, FORMATS
from enginebench_quant.kernels.layout import pack, packed_shape
from enginebench_quant.kernels.reference import quantize_activations
from enginebench_quant.kernels.table import Kernels

KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
Floats = NDArray[np.float32]


def activation_blocks(x: Floats) -> NDArray[np.uint8]:
    """A tile (tokens, columns) as the kernels read it: (blocks, tokens, BLOCK_BYTES)."""
    blocks = x.reshape(len(x), -1, BLOCK)
    scale = np.abs(blocks).max(-1) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    codes = np.rint(blocks * inverse[..., None]).astype(np.int8)
    sums = codes.sum(-1, dtype=np.int32)
    parts = [
        codes.view(np.uint8),
        scale[..., None].view(np.uint8),
        (scale * sums).astype(np.float32)[..., None].view(np.uint8),
        (-sums)[..., None].view(np.uint8),
    ]
    joined = np.concatenate(parts, -1)
    padded = np.pad(joined, ((0, 0), (0, 0), (0, BLOCK_BYTES - joined.shape[-1])))
    return np.ascontiguousarray(padded.swapaxes(0, 1))


def run_matmul(
    kernels: Kernels, kind: str, data: NDArray[np.uint8], x: Floats, tile: int, start: Floats | None
) -> Floats:
    """x (tokens, columns) times the packed weights, tile by tile, through the compiled kernel."""
    lanes, (rows, tokens) = kernels.level.lanes, (len(data), len(x))
    shape = packed_shape(kind, rows, x.shape[1], lanes)
    packed = np.zeros(shape, np.uint8)
    pack(kind, data, lanes, packed)
    padded = np.zeros((-(-tokens // tile) * tile, shape[1] * FORMATS[kind].block), np.float32)
    padded[:tokens, : x.shape[1]] = x
    if FORMATS[kind].activations == "int8":
        tiles = [activation_blocks(part) for part in np.split(padded, len(padded) // tile)]
        acts = np.stack(tiles)
    else:
        acts = padded
    out = np.full((len(padded), shape[0] * lanes), np.nan, np.float32)
    if start is not None:
        out[:] = 0
        out[:tokens, :rows] = start
    state = np.array([tokens, 0], np.int64)
    arguments = np.array(
        [
            packed.ctypes.data,
            shape[1] * shape[2],
            shape[1],
            acts.ctypes.data,
            padded.strides[0],
            acts.nbytes // (len(padded) // tile),
            out.ctypes.data,
            out.strides[0],
            int(start is not None),
            state.ctypes.data,
        ],
        np.int64,
    )
    KERNEL(kernels.matmul(kind, tile))(arguments.ctypes.data, 0, shape[0], 0)
    return out[:tokens, :rows]


def expected_product(kind: str, data: NDArray[np.uint8], x: Floats, rows: int) -> Floats:
    weights = dequantize(data, GGMLType[kind], (rows, x.shape[1])).astype(np.float64)
    is_int8 = FORMATS[kind].activations == "int8"
    return (quantize_activations(x) if is_int8 else x).astype(np.float64) @ weights.T


def check(found: Floats, expected: NDArray[np.float64]) -> None:
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 2e-6


@pytest.mark.parametrize("tokens, tile", [(1, 1), (3, 4), (8, 8), (13, 8)])
@pytest.mark.parametrize("rows, columns", [(1, 32), (63, 96), (1000, 64)])
@pytest.mark.parametrize("kind", FORMATS)
def test_matches_numpy(
    kernels: Kernels, kind: str, rows: int, columns: int, tokens: int, tile: int
) -> None:
    random = np.random.default_rng(rows + columns + tokens)
    weights = random.standard_normal((rows, columns), np.float32)
    data = quantize(weights, GGMLType[kind]).reshape(rows, -1)
    x = random.standard_normal((tokens, columns), np.float32)
    check(run_matmul(kernels, kind, data, x, tile, None), expected_product(kind, data, x, rows))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_columns_of_floats_need_not_fill_a_step(kernels: Kernels, kind: str) -> None:
    random = np.random.default_rng(7)
    data = quantize(random.standard_normal((19, 37), np.float32), GGMLType[kind]).reshape(19, -1)
    x = random.standard_normal((2, 37), np.float32)
    check(run_matmul(kernels, kind, data, x, 2, None), expected_product(kind, data, x, 19))


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
def test_adds_to_what_is_there(kernels: Kernels, kind: str) -> None:
    random = np.random.default_rng(3)
    data = quantize(random.standard_normal((40, 64), np.float32), GGMLType[kind]).reshape(40, -1)
    x = random.standard_normal((1, 64), np.float32)
    start = random.standard_normal((1, 40), np.float32)
    found = run_matmul(kernels, kind, data, x, 1, start)
    check(found, start + expected_product(kind, data, x, 40))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_no_sum_overflows_at_the_extremes(kernels: Kernels, kind: str) -> None:
    """All codes at their largest magnitude (-128 included) against all activations at +-127."""
    rows, columns = 16, 64
    data = np.full((rows, GGMLType[kind].row_bytes(columns)), 0xFF, np.uint8)
    blocks = data.reshape(rows, 2, -1)
    blocks[..., :2] = np.array([1.0], np.float16).view(np.uint8)
    if kind.endswith("_1"):
        blocks[..., 2:4] = np.array([-0.5], np.float16).view(np.uint8)
    if kind == "Q8_0":
        blocks[..., 2:] = 0x80
    x = np.full((1, columns), 127, np.float32)
    x[0, columns // 2 :] = -127
    x[0, 0] = 126.0
    check(run_matmul(kernels, kind, data, x, 1, None), expected_product(kind, data, x, rows))
