"""k-quants and IQ4: byte for byte what the reference quantizers give.

`libgguf` holds the reference, compiled; where it is not installed, hashes of what it gave for the
same values stand in for it.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from enginebench_models.dequantizers import dequantize
from enginebench_models.ggml_types import GGMLType
from enginebench_models.quantizers import quantize

SEARCHING = [GGMLType[name] for name in "Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()]
every_type = pytest.mark.parametrize("type", SEARCHING, ids=lambda type: type.name)


def values_of(kind: str) -> np.ndarray:
    """(60, 512); RandomState's streams never change."""
    random = np.random.RandomState(7)
    values = random.standard_normal((60, 512))
    match kind:
        case "weights":
            values *= 0.02
        case "outliers":
            values *= np.exp(2 * random.standard_normal(values.shape))
        case "whole numbers":
            values = np.round(3 * values)
        case "constants":  # groups of zeros, of equal values, of one sign
            values[:, :64] = 0
            values[3], values[4], values[5], values[6] = 0, 1, -2, np.abs(values[6])
            values[7] = -np.abs(values[7])
        case "tiny":
            values *= 1e-9
            values[:, :16] *= 1e-8
    return values.astype(np.float32)


KINDS = ("weights", "outliers", "whole numbers", "constants", "tiny")


@every_type
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_s_bytes(type, kind):
    libgguf = pytest.importorskip("libgguf")
    values = values_of(kind)
    expected = libgguf.quantize_rows(values, int(type))
    assert np.array_equal(quantize(values, type), expected)


@every_type
@settings(max_examples=60)
@given(
    values=arrays.arrays(
        np.float32,
        (1, 256),
        elements=st.floats(-1e4, 1e4, width=32).map(lambda x: 0.0 if abs(x) < 1e-12 else x),
        fill=st.sampled_from([0.0, 1.0, -0.5]),
    )
)
def test_the_reference_s_bytes_for_any_values(type, values):
    libgguf = pytest.importorskip("libgguf")
    assert np.array_equal(quantize(values, type), libgguf.quantize_rows(values, int(type)))


# sha256 over the bytes that libgguf 0.2.2 gives for the five kinds of values, one after the other.
REFERENCE_HASHES = {
    "Q2_K": "bad72cf8ad94a8053abc0b3f843c4f17feadfb67ef0f55b71111c6af7e48714e",
    "Q3_K": "4ad9bc38ea620c6562eb32d384811dcfd226a5439874bb07343087aec27237a8",
    "Q4_K": "35988c2d230f11a464aec61d010e8dff45a553f0c7ee73561ef36a18f6b3b9f0",
    "Q5_K": "9653d7205599e6ed4285ec765b45aec5896feead29c8bc5642c20a39ea1dbbe0",
    "Q6_K": "c7f23d6029ceb1cc1a9b3ba392441973d28138ba5ba82d82fe1b2b841713cb8c",
    "IQ4_NL": "9d3dad70416d275c2549b19bf8447b49d2b184742cf5ed7b12fb04c924f1fc77",
    "IQ4_XS": "9c24f7a52190ea92aff2e45788e27d2bece4bf6a02101b85098c9a356b5a7f8e",
}


@every_type
def test_the_hash_of_the_reference_s_bytes(type):
    digest = hashlib.sha256()
    for kind in KINDS:
        digest.update(quantize(values_of(kind), type).tobytes())
    assert digest.hexdigest() == REFERENCE_HASHES[type.name]


@every_type
def test_a_round_trip_errs_as_little_as_its_bits_allow(type):
    values = values_of("weights")
    back = dequantize(quantize(values, type), type, values.shape)
    error = np.linalg.norm(back - values) / np.linalg.norm(values)
    levels = {"Q2_K": 4, "Q3_K": 8, "Q5_K": 32, "Q6_K": 64}.get(type.name, 16)
    assert error < 1.3 / levels


@every_type
def test_parts_may_be_quantized_in_threads(type):
    values = values_of("outliers")
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda rows: quantize(rows, type), np.array_split(values, 7)))
    assert np.array_equal(np.concatenate(parts), quantize(values, type))


@every_type
def test_values_that_no_scale_can_hold_are_no_crash(type):
    quantize(np.full((1, 256), 3e38, np.float32), type)
