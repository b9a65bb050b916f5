"""Reference dequantizers in plain numpy: blocks in, float32 out, bit for bit as ggml has it.

They are the oracle of the engines' kernels and the way to load quantized weights into an engine
that computes in floating point. Not meant for computing on quantized weights directly.

Each block layout is a numpy record; a decoder gets n blocks of it and returns (n, block_size).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models.block_fields import (
    IQ4_LEVELS,
    Blocks,
    Bytes,
    Decoder,
    Floats,
    by_group,
    layout,
    planes,
    scale,
)
from enginebench_models.codebook_decoders import CODEBOOK_DECODERS
from enginebench_models.ggml_types import GGMLType

__all__ = ["DEQUANTIZABLE", "dequantize"]

_CHUNK_VALUES = 1 << 18  # temporaries stay in the cache and small beside the result
_FP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def dequantize(data: Bytes, type: GGMLType, shape: tuple[int, ...]) -> Floats:
    """Decode the bytes of a tensor (any layout that flattens to its rows in order) to `shape`."""
    if type not in _DECODERS:
        known = ", ".join(t.name for t in DEQUANTIZABLE)
        raise ModelError(f"tensors of type {type.name} cannot be decoded (known: {known})")
    record, decode = _DECODERS[type]
    flat = np.ascontiguousarray(data).reshape(-1)
    if flat.size * type.block_size != math.prod(shape) * type.block_bytes:
        raise ValueError(f"{flat.size} bytes of {type.name} do not make a tensor of {shape}")
    blocks = flat.view(record)
    values = np.empty((blocks.size, type.block_size), np.float32)
    step = _CHUNK_VALUES // type.block_size
    for start in range(0, blocks.size, step):
        values[start : start + step] = decode(blocks[start : start + step])
    return values.reshape(shape)


# ---------------------------------------------------------------- pieces that layouts share


def _single_bits(words: NDArray[np.uint32]) -> Bytes:
    """The 32 bits of each word, lowest first: (n,) -> (n, 32)."""
    return (words[:, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)).astype(np.uint8)


def _signed(fields: Bytes, offset: int) -> Floats:
    return fields.astype(np.float32) - np.float32(offset)


# ---------------------------------------------------------------- plain numbers


def _plain(blocks: Blocks) -> Floats:
    return blocks.astype(np.float32)[:, None]


def _bf16(blocks: Blocks) -> Floats:
    return (blocks.astype(np.uint32) << np.uint32(16)).view(np.float32)[:, None]


# ---------------------------------------------------------------- blocks of 32


def _q4_0(b: Blocks) -> Floats:
    return scale(b["d"]) * _signed(planes(b["qs"], 4, 16), 8)


def _q4_1(b: Blocks) -> Floats:
    return scale(b["d"]) * planes(b["qs"], 4, 16).astype(np.float32) + scale(b["m"])


def _five_bits(b: Blocks) -> Bytes:
    return planes(b["qs"], 4, 16) | _single_bits(b["qh"]) << np.uint8(4)


def _q5_0(b: Blocks) -> Floats:
    return scale(b["d"]) * _signed(_five_bits(b), 16)


def _q5_1(b: Blocks) -> Floats:
    return scale(b["d"]) * _five_bits(b).astype(np.float32) + scale(b["m"])


def _q8_0(b: Blocks) -> Floats:
    return scale(b["d"]) * b["qs"].astype(np.float32)


def _iq4_nl(b: Blocks) -> Floats:
    return scale(b["d"]) * IQ4_LEVELS[planes(b["qs"], 4, 16)]


def _mxfp4(b: Blocks) -> Floats:
    """OCP MXFP4: e2m1 values under a power of two; the table is doubled, so the scale is halved."""
    exponent = b["e"].astype(np.uint32)
    tiny = np.uint32(0x00200000) << exponent  # exponents 0 and 1 make subnormal floats
    normal = (np.maximum(exponent, 1) - np.uint32(1)) << np.uint32(23)
    scale = np.where(exponent < 2, tiny, normal).astype(np.uint32).view(np.float32)
    return scale[:, None] * _FP4_VALUES[planes(b["qs"], 4, 16)]


# ---------------------------------------------------------------- super-blocks of 256


def _q2_k(b: Blocks) -> Floats:
    scales = b["scales"]  # (n, 16): low nibble scale, high nibble minimum
    low, high = scales & np.uint8(15), scales >> np.uint8(4)
    steps = by_group(scale(b["d"]) * low, planes(b["qs"], 2, 32).astype(np.float32))
    return (steps - (scale(b["dmin"]) * high)[..., None]).reshape(len(b), 256)


def _q3_k(b: Blocks) -> Floats:
    packed = b["scales"]  # 16 scales of 6 bits: 8 bytes of nibbles, then 4 bytes of bit pairs
    nibbles, pairs = planes(packed[:, :8], 4, 8), planes(packed[:, 8:], 2, 4)
    scales = scale(b["d"]) * _signed(nibbles | pairs << np.uint8(4), 32)
    high = planes(b["hmask"], 1, 32) << np.uint8(2)  # a set bit means: do not subtract 4
    values = (planes(b["qs"], 2, 32) | high).astype(np.float32) - np.float32(4)
    return by_group(scales, values).reshape(len(b), 256)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes: two of (n, 8)."""
    first, second, nibbles = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low, top = np.uint8(63), np.uint8(48)
    scales = [first & low, nibbles & np.uint8(15) | first >> np.uint8(2) & top]
    minima = [second & low, nibbles >> np.uint8(4) | second >> np.uint8(2) & top]
    return (
        np.concatenate(scales, axis=1).astype(np.float32),
        np.concatenate(minima, axis=1).astype(np.float32),
    )


def _affine_k(b: Blocks, values: Bytes) -> Floats:
    scales, minima = _six_bit_pairs(b["scales"])
    steps = by_group(scale(b["d"]) * scales, values.astype(np.float32))
    return (steps - (scale(b["dmin"]) * minima)[..., None]).reshape(len(b), 256)


def _q4_k(b: Blocks) -> Floats:
    return _affine_k(b, planes(b["qs"], 4, 32))


def _q5_k(b: Blocks) -> Floats:
    return _affine_k(b, planes(b["qs"], 4, 32) | planes(b["qh"], 1, 32) << np.uint8(4))


def _q6_k(b: Blocks) -> Floats:
    values = planes(b["ql"], 4, 64) | planes(b["qh"], 2, 32) << np.uint8(4)
    scales = scale(b["d"]) * b["scales"].astype(np.float32)
    return by_group(scales, _signed(values, 32)).reshape(len(b), 256)


def _iq4_xs(b: Blocks) -> Floats:
    shifts = np.arange(0, 16, 2, dtype=np.uint16)
    high = (b["scales_h"][:, None] >> shifts & np.uint16(3)).astype(np.uint8)
    low = planes(b["scales_l"], 4, 1)
    scales = scale(b["d"]) * _signed(low | high << np.uint8(4), 32)
    return by_group(scales, IQ4_LEVELS[planes(b["qs"], 4, 16)]).reshape(len(b), 256)


_D, _M, _DMIN = ("d", "<f2"), ("m", "<f2"), ("dmin", "<f2")
_QS16, _QS32, _QS64, _QS128 = (("qs", "u1", n) for n in (16, 32, 64, 128))
_QH, _SCALES12 = ("qh", "<u4"), ("scales", "u1", 12)

_DECODERS: dict[GGMLType, tuple[np.dtype[Any], Decoder]] = {
    GGMLType.F32: (np.dtype("<f4"), _plain),
    GGMLType.F16: (np.dtype("<f2"), _plain),
    GGMLType.BF16: (np.dtype("<u2"), _bf16),
    GGMLType.Q4_0: (layout(_D, _QS16), _q4_0),
    GGMLType.Q4_1: (layout(_D, _M, _QS16), _q4_1),
    GGMLType.Q5_0: (layout(_D, _QH, _QS16), _q5_0),
    GGMLType.Q5_1: (layout(_D, _M, _QH, _QS16), _q5_1),
    GGMLType.Q8_0: (layout(_D, ("qs", "i1", 32)), _q8_0),
    GGMLType.IQ4_NL: (layout(_D, _QS16), _iq4_nl),
    GGMLType.MXFP4: (layout(("e", "u1"), _QS16), _mxfp4),
    GGMLType.Q2_K: (layout(("scales", "u1", 16), _QS64, _D, _DMIN), _q2_k),
    GGMLType.Q3_K: (layout(("hmask", "u1", 32), _QS64, _SCALES12, _D), _q3_k),
    GGMLType.Q4_K: (layout(_D, _DMIN, _SCALES12, _QS128), _q4_k),
    GGMLType.Q5_K: (layout(_D, _DMIN, _SCALES12, ("qh", "u1", 32), _QS128), _q5_k),
    GGMLType.Q6_K: (
        layout(("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D),
        _q6_k,
    ),
    GGMLType.IQ4_XS: (layout(_D, ("scales_h", "<u2"), ("scales_l", "u1", 4), _QS128), _iq4_xs),
    **CODEBOOK_DECODERS,
}
DEQUANTIZABLE = tuple(_DECODERS)
