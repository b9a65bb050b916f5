"""The compiled packing writes what the plain one writes, and zeros where there is nothing."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from quant_models import random_blocks

from enginebench_models import GGMLType, quantize
from enginebench_quant.kernels.arguments import PACK_ARGUMENTS
from enginebench_quant.kernels.formats import FORMATS
from enginebench_quant.kernels.layout import pack, packed_shape
from enginebench_quant.kernels.table import Kernels

KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows, permuted", [(1, False), (37, True)])
def test_matches_the_plain_packing(kernels: Kernels, kind: str, rows: int, permuted: bool) -> None:
    random = np.random.default_rng(rows)
    columns = 2 * FORMATS[kind].block if FORMATS[kind].activations == "int8" else 61
    data = random_blocks(kind, rows, columns, seed=rows)
    order = random.permutation(rows).astype(np.int64)
    shape = packed_shape(kind, rows, columns, kernels.level.lanes)
    found, expected = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    pack(kind, data[order] if permuted else data, kernels.level.lanes, expected)
    values = {
        "source": data.ctypes.data,
        "row_bytes": data.shape[1],
        "rows": rows,
        "columns": columns,
        "order": order.ctypes.data if permuted else 0,
        "out": found.ctypes.data,
        "steps": shape[1],
    }
    arguments = np.array([values[name] for name in PACK_ARGUMENTS], np.int64)
    KERNEL(kernels.pack(kind))(arguments.ctypes.data, 0, shape[0], 0)
    assert (found == expected).all()


def test_the_plain_packing_pads_with_zero_rows(kernels: Kernels) -> None:
    lanes = kernels.level.lanes
    data = quantize(np.ones((3, 32), np.float32), GGMLType.Q8_0).reshape(3, -1)
    packed = np.full(packed_shape("Q8_0", 3, 32, lanes), 0xEE, np.uint8)
    pack("Q8_0", data, lanes, packed)
    scales = packed[0, 0, : 2 * lanes].view(np.float16)
    assert (scales[:3] > 0).all() and not scales[3:].any()
