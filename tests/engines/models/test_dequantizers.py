"""The dequantizers against those of the `gguf` package, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants

from enginebench.errors import ModelError
from enginebench_models.dequantizers import DEQUANTIZABLE, dequantize
from enginebench_models.ggml_types import GGMLType

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random scales overflow


def random_bytes(type: GGMLType, rows: int, columns: int) -> np.ndarray:
    random = np.random.default_rng(type)
    return random.integers(0, 256, (rows, type.row_bytes(columns)), dtype=np.uint8)


def reference(data: np.ndarray, type: GGMLType) -> np.ndarray:
    return quants.dequantize(data, gguf.GGMLQuantizationType(int(type)))


def test_block_sizes_are_those_of_the_gguf_package():
    for type in GGMLType:
        expected = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(int(type))]
        assert (type.block_size, type.block_bytes) == expected
        assert type.name == gguf.GGMLQuantizationType(int(type)).name


@pytest.mark.parametrize("type", DEQUANTIZABLE, ids=lambda type: type.name)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (3, 2), (37, 5)])
def test_every_bit_pattern_decodes_as_the_reference_does(type, rows, blocks):
    data = random_bytes(type, rows, blocks * 256)
    expected = reference(data, type)
    found = dequantize(data, type, (rows, blocks * 256))
    assert found.dtype == np.float32
    same = (found.view(np.uint32) == expected.view(np.uint32)) | (
        np.isnan(found) & np.isnan(expected)
    )
    assert same.all()


def test_tensors_larger_than_a_chunk_are_decoded_to_the_end():
    data = random_bytes(GGMLType.Q4_0, 1200, 256)
    assert np.array_equal(
        dequantize(data, GGMLType.Q4_0, (1200, 256)), reference(data, GGMLType.Q4_0), equal_nan=True
    )


def test_any_shape_with_the_same_rows_is_accepted():
    data = random_bytes(GGMLType.Q8_0, 6, 64)
    flat = dequantize(data, GGMLType.Q8_0, (6, 64))
    assert np.array_equal(
        dequantize(data, GGMLType.Q8_0, (2, 3, 64)), flat.reshape(2, 3, 64), equal_nan=True
    )


def test_a_type_without_decoder_is_named():
    with pytest.raises(ModelError, match=r"Q8_K cannot be decoded \(known: F32"):
        dequantize(np.zeros((1, 292), np.uint8), GGMLType.Q8_K, (1, 256))


def test_bytes_that_do_not_fit_the_shape_are_refused():
    with pytest.raises(ValueError, match="18 bytes of Q4_0"):
        dequantize(np.zeros((1, 18), np.uint8), GGMLType.Q4_0, (1, 64))


def test_rows_must_be_whole_blocks():
    with pytest.raises(ValueError, match="rows of 100 values cannot be stored as Q4_0"):
        GGMLType.Q4_0.row_bytes(100)
