"""Matrix products of every type at every CPU level, against numpy on dequantized weights."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numpy.typing import NDArray
from quant_models import random_blocks

from enginebench_models import GGMLType, dequantize
from enginebench_quant.kernels.activations import BLOCK
from enginebench_quant.kernels.file_blocks import FILE_BLOCKS
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.kernels.layout import pack, packed_shape
from enginebench_quant.kernels.reference import quantize_activations
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import TILE_TOKENS

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
        (-codes[..., : BLOCK // 2].sum(-1, dtype=np.int32))[..., None].view(np.uint8),
    ]
    return np.ascontiguousarray(np.concatenate(parts, -1).swapaxes(0, 1))


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


@pytest.mark.parametrize(
    "rows, steps, tokens, tiled",
    [(1, 1, 1, False), (63, 3, 1, False), (40, 2, 3, True), (1000, 2, 13, True)],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_matches_numpy(
    kernels: Kernels, kind: str, rows: int, steps: int, tokens: int, tiled: bool
) -> None:
    columns = steps * FORMATS[kind].block
    data = random_blocks(kind, rows, columns, seed=rows)
    x = np.random.default_rng(tokens).standard_normal((tokens, columns), np.float32)
    tile = TILE_TOKENS[kernels.level.name] if tiled else 1
    check(run_matmul(kernels, kind, data, x, tile, None), expected_product(kind, data, x, rows))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_columns_of_floats_need_not_fill_a_step(kernels: Kernels, kind: str) -> None:
    data = random_blocks(kind, 19, 37, seed=7)
    x = np.random.default_rng(7).standard_normal((2, 37), np.float32)
    check(run_matmul(kernels, kind, data, x, 2, None), expected_product(kind, data, x, 19))


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "F16"])
def test_adds_to_what_is_there(kernels: Kernels, kind: str) -> None:
    columns = 2 * FORMATS[kind].block
    random, data = np.random.default_rng(3), random_blocks(kind, 40, columns, seed=3)
    x = random.standard_normal((1, columns), np.float32)
    start = random.standard_normal((1, 40), np.float32)
    found = run_matmul(kernels, kind, data, x, 1, start)
    check(found, start + expected_product(kind, data, x, 40))


LARGEST = {"Q8_0": 0x80, "IQ4_NL": 0x00, "IQ4_XS": 0x00, "MXFP4": 0x77}  # bytes of codes


@pytest.mark.parametrize("kind", FILE_BLOCKS)
def test_no_sum_overflows_at_the_extremes(kernels: Kernels, kind: str) -> None:
    """All codes at their largest magnitude (-128 included) against all activations at +-127."""
    source, rows = FILE_BLOCKS[kind], 16
    columns = 2 * source.columns
    data = np.full((rows, 2, source.n_bytes), LARGEST.get(kind, 0xFF), np.uint8)
    for at, factor in zip(source.factors, (1.0, -0.5), strict=False):
        if source.factor_bytes == 2:
            data[..., at : at + 2] = np.array([factor], np.float16).view(np.uint8)
    data = data.reshape(rows, -1)
    x = np.full((1, columns), 127, np.float32)
    x[0, columns // 2 :] = -381  # codes of -127, under another scale
    x[0, 0] = 126.0
    check(run_matmul(kernels, kind, data, x, 1, None), expected_product(kind, data, x, rows))


@pytest.mark.parametrize("exponent", [0, 1, 2, 252])
def test_every_exponent_of_mxfp4(kernels: Kernels, exponent: int) -> None:
    """Down to subnormal scales, which exponents 0 and 1 stand for."""
    data = random_blocks("MXFP4", 16, 32, seed=exponent)
    data[:, 0] = exponent
    x = np.full((1, 32), 2.0 ** (96 if exponent < 3 else -96), np.float32)
    x[0, ::3] *= -0.5
    check(run_matmul(kernels, "MXFP4", data, x, 1, None), expected_product("MXFP4", data, x, 16))
