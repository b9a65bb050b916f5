"""Random tensors of any type, written block by block: valid, with mean zero and a given spread.

Numbers are made as bytes of the type itself, never as floats that are then quantized: that is what
makes a model of several gigabytes in seconds. Scales vary by a factor of two between blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enginebench_models.ggml_types import GGMLType

__all__ = ["RANDOM_TYPES", "random_rows"]

Bytes = NDArray[np.uint8]
_HALF_MANTISSA = 0x03FF
_SIGN = 0x8000
_RMS_1_TO_2 = math.sqrt(7 / 3)  # root mean square of a number uniform in [1, 2)


def random_rows(type: GGMLType, rows: int, columns: int, spread: float, seed: int) -> Bytes:
    """(rows, bytes per row) of values with a standard deviation of about `spread`."""
    random = np.random.Generator(np.random.SFC64(seed))
    data = np.frombuffer(random.bytes(rows * type.row_bytes(columns)), np.uint8).copy()
    _SHAPERS[type](data.reshape(-1, type.block_bytes), spread)
    return data.reshape(rows, -1)


def _shape_floats(dtype: str, mantissa_bits: int, bias: int) -> Callable[[Bytes, float], None]:
    """Keep random sign and mantissa, set the exponent: magnitudes uniform in [e, 2e)."""

    def shape(data: Bytes, spread: float) -> None:
        words = data.reshape(-1).view(dtype)
        sign = 1 << (8 * words.itemsize - 1)
        exponent = round(math.log2(spread / _RMS_1_TO_2)) + bias
        words &= sign | (1 << mantissa_bits) - 1
        words |= exponent << mantissa_bits

    return shape


def _set_half(field: NDArray[np.uint16], magnitude: float, *, signed: bool) -> None:
    """Turn random bits into half floats: 2/3 to 4/3 of `magnitude`, of any sign if `signed`."""
    fraction = (field & np.uint16(_HALF_MANTISSA)).astype(np.float32) / np.float32(1024)
    scales = (fraction + np.float32(1)) * np.float32(magnitude / 1.5)
    sign = field & np.uint16(_SIGN if signed else 0)
    field[:] = scales.astype(np.float16).view(np.uint16) | sign


def _halves(data: Bytes, start: int) -> NDArray[np.uint16]:
    """The 16-bit field at byte `start` of each block, as a view."""
    field: NDArray[np.uint16] = np.ndarray(
        (len(data),), "<u2", data, offset=start, strides=(data.shape[1],)
    )
    return field


def _shape_symmetric(scale_at: int, steps_rms: float) -> Callable[[Bytes, float], None]:
    """Blocks of scale * steps: the scale's sign is random, so that an uneven range cancels out."""

    def shape(data: Bytes, spread: float) -> None:
        _set_half(_halves(data, scale_at), spread / steps_rms, signed=True)

    return shape


def _shape_affine(top: int) -> Callable[[Bytes, float], None]:
    """Blocks of scale * steps + minimum: the minimum is minus half the range."""
    steps_rms = math.sqrt(((top + 1) ** 2 - 1) / 12)

    def shape(data: Bytes, spread: float) -> None:
        scales = _halves(data, 0)
        _set_half(scales, spread / steps_rms, signed=False)
        minima = -(top / 2) * scales.view(np.float16).astype(np.float32)
        _halves(data, 2)[:] = minima.astype(np.float16).view(np.uint16)

    return shape


def _shape_q4_k(data: Bytes, spread: float) -> None:
    """The same six random bits for the scale and the minimum of a group: steps centred on zero."""
    scales_rms, steps_rms, middle = math.sqrt(63 * 127 / 6), math.sqrt(255 / 12), 7.5
    scales = _halves(data, 0)
    _set_half(scales, spread / (scales_rms * steps_rms), signed=False)
    minima = middle * scales.view(np.float16).astype(np.float32)
    _halves(data, 2)[:] = minima.astype(np.float16).view(np.uint16)
    packed = data[:, 4:16]
    packed[:, 4:8] = packed[:, 0:4]
    packed[:, 8:12] = packed[:, 8:12] & np.uint8(15) | packed[:, 8:12] << np.uint8(4)


_BYTE_RMS = math.sqrt((256**2 - 1) / 12 + 0.25)  # of int8, uniform over -128 .. 127
_SHAPERS: dict[GGMLType, Callable[[Bytes, float], None]] = {
    GGMLType.F32: _shape_floats("<u4", 23, 127),
    GGMLType.F16: _shape_floats("<u2", 10, 15),
    GGMLType.BF16: _shape_floats("<u2", 7, 127),
    GGMLType.Q4_0: _shape_symmetric(0, math.sqrt(255 / 12 + 0.25)),
    GGMLType.Q5_0: _shape_symmetric(0, math.sqrt(1023 / 12 + 0.25)),
    GGMLType.Q8_0: _shape_symmetric(0, _BYTE_RMS),
    GGMLType.Q6_K: _shape_symmetric(208, _BYTE_RMS * math.sqrt(4095 / 12 + 0.25)),
    GGMLType.Q4_1: _shape_affine(15),
    GGMLType.Q5_1: _shape_affine(31),
    GGMLType.Q4_K: _shape_q4_k,
}
RANDOM_TYPES = tuple(_SHAPERS)
