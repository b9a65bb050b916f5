"""The quantizers that round once against those of the `gguf` package, byte for byte."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from enginebench.errors import ModelError
from enginebench_models.dequantizers import dequantize
from enginebench_models.ggml_types import GGMLType
from enginebench_models.quantizers import QUANTIZABLE, quantize

# Below 1e-30 the reciprocal of a scale overflows, and what the reference gives then is undefined.
VALUES = st.floats(-1e4, 1e4, width=32).map(lambda x: 0.0 if abs(x) < 1e-30 else x)


ONE_PASS = tuple(type for type in QUANTIZABLE if type.block_size <= 32 and type.name != "IQ4_NL")


def reference(values: np.ndarray, type: GGMLType) -> np.ndarray:
    encoded = quants.quantize(values, gguf.GGMLQuantizationType(int(type)))
    return encoded.view(np.uint8).reshape(len(values), -1)


@pytest.mark.parametrize("type", ONE_PASS, ids=lambda type: type.name)
@pytest.mark.parametrize("spread", [1e-3, 0.05, 30.0])
def test_normal_values(type, spread):
    values = (np.random.default_rng(1).standard_normal((50, 96)) * spread).astype(np.float32)
    values[7] = 0
    values[8] = spread
    assert np.array_equal(quantize(values, type), reference(values, type))


@pytest.mark.parametrize("type", ONE_PASS, ids=lambda type: type.name)
@given(values=arrays.arrays(np.float32, (2, 32), elements=VALUES))
def test_any_values(type, values):
    assert np.array_equal(quantize(values, type), reference(values, type))


def test_bf16_keeps_nan_and_infinity():
    values = np.array([[np.nan, np.inf, -np.inf, 3.4e38]], np.float32)
    decoded = dequantize(quantize(values, GGMLType.BF16), GGMLType.BF16, (1, 4))
    assert np.isnan(decoded[0, 0])
    assert decoded[0, 1:].tolist() == [np.inf, -np.inf, np.inf]


@pytest.mark.parametrize(
    ("type", "tolerance"),
    [(GGMLType.Q8_0, 1 / 254), (GGMLType.Q5_1, 1 / 60), (GGMLType.Q4_1, 1 / 29)],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_round_trip_errs_by_half_a_step(type, tolerance):
    values = np.random.default_rng(2).uniform(-1, 1, (16, 64)).astype(np.float32)
    back = dequantize(quantize(values, type), type, values.shape)
    assert np.abs(back - values).max() <= tolerance * 2.05


def test_unknown_type_and_odd_rows():
    with pytest.raises(ModelError, match="cannot quantize to IQ2_S"):
        quantize(np.zeros((1, 256)), GGMLType.IQ2_S)
    with pytest.raises(ValueError, match="rows of 40 values"):
        quantize(np.zeros((1, 40)), GGMLType.Q8_0)
