"""How tensors are interleaved for the kernels, in plain numpy; `packing.py` does the same faster.

Packed arrays have the shape (groups, steps, lanes * block_bytes); rows are padded with zeros to a
whole group, columns of float formats to a whole step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginebench_quant.kernels.activations import BLOCK
from enginebench_quant.kernels.block_format import BlockFormat
from enginebench_quant.kernels.file_blocks import FileBlock, Plane
from enginebench_quant.kernels.float_format import FloatFormat
from enginebench_quant.kernels.formats import FORMATS

__all__ = ["pack", "packed_shape"]

Bytes = NDArray[np.uint8]


def packed_shape(kind: str, rows: int, columns: int, lanes: int) -> tuple[int, int, int]:
    """Groups, steps and bytes of a step."""
    form = FORMATS[kind]
    return -(-rows // lanes), -(-columns // form.block), lanes * form.block_bytes


def pack(kind: str, data: Bytes, lanes: int, out: Bytes) -> None:
    """Interleave `data` (rows, bytes of a row) uint8 into `out` of `packed_shape`."""
    form = FORMATS[kind]
    if isinstance(form, FloatFormat):
        _pack_floats(form, _whole_groups(data, lanes), lanes, out)
    else:
        assert isinstance(form, BlockFormat)
        fields = _fields(form, data.reshape(len(data), -1, form.file_block.n_bytes))
        _put(fields, lanes, out)


def _whole_groups(rows: Bytes, lanes: int) -> Bytes:
    missing = -rows.shape[0] % lanes
    return np.pad(rows, ((0, missing), *[(0, 0)] * (rows.ndim - 1))) if missing else rows


def _pack_floats(form: FloatFormat, rows: Bytes, lanes: int, out: Bytes) -> None:
    kind = np.dtype(f"u{form.element_bytes}")
    values = rows.view(kind)  # (rows, columns)
    missing = -values.shape[1] % form.block
    if missing:
        values = np.pad(values, ((0, 0), (0, missing)))
    groups, steps = out.shape[:2]
    target = out.view(kind).reshape(groups, steps * form.block, lanes)
    target[:] = values.reshape(groups, lanes, -1).transpose(0, 2, 1)


def _put(fields: list[Bytes], lanes: int, out: Bytes) -> None:
    """Fields (rows, steps, bytes of one row) one after the other, a group's rows side by side."""
    groups, steps, at = *out.shape[:2], 0
    for field in fields:
        size = field.shape[2]
        rows = _whole_groups(field, lanes).reshape(groups, lanes, steps, size)
        out[:, :, at : at + lanes * size] = rows.transpose(0, 2, 1, 3).reshape(groups, steps, -1)
        at += lanes * size


def _fields(form: BlockFormat, blocks: Bytes) -> list[Bytes]:
    """The fields of a step from `blocks` (rows, steps, bytes of a block), in their order."""
    source = form.file_block
    fields = [blocks[..., at : at + source.factor_bytes] for at in source.factors]
    scales, minima = _scales(source, blocks)
    for part in range(form.parts):
        for factors in (scales, minima)[: 1 + form.has_own_minima] if form.groups else ():
            fields += [factors[..., [part * form.groups + group]] for group in range(form.groups)]
    planes = [_plane(plane, source.columns, blocks) for plane in source.planes]
    for part in range(form.parts):
        for plane, codes in zip(source.planes, planes, strict=True):
            own = codes[..., part * BLOCK : (part + 1) * BLOCK]
            fields += _words(own, plane.bits)
    return fields


def _plane(plane: Plane, columns: int, blocks: Bytes) -> Bytes:
    """A plane's bits of each code: (rows, steps, columns)."""
    n_bytes = columns * plane.bits // 8
    packed = blocks[..., plane.at : plane.at + n_bytes]
    runs = packed.reshape(*blocks.shape[:2], -1, 1, plane.run)
    shifts = np.arange(0, 8, plane.bits, dtype=np.uint8)[:, None]
    return (runs >> shifts & np.uint8((1 << plane.bits) - 1)).reshape(*blocks.shape[:2], -1)


def _words(codes: Bytes, bits: int) -> list[Bytes]:
    """`bits` words of four bytes from the bits of a part's 32 codes."""
    by_word = codes.reshape(*codes.shape[:2], 8 // bits, bits, 4)  # field, word, byte
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None, None]
    joined = np.bitwise_or.reduce(by_word << shifts, axis=2)
    return [joined[:, :, word] for word in range(bits)]


def _scales(source: FileBlock, blocks: Bytes) -> tuple[Bytes, Bytes]:
    """A superblock's scales and minima as bytes (rows, steps, groups); pairs of nibbles stay."""
    packed = blocks[..., source.scales_at :]
    none = packed[..., :0]
    match source.scheme:
        case "six_bit_pairs":
            first, second, third = (packed[..., at : at + 4] for at in (0, 4, 8))
            scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], -1)
            minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], -1)
            return scales.astype(np.uint8), minima.astype(np.uint8)
        case "int8" | "nibble_pairs":
            return packed[..., :16], none
        case "six_bit":
            nibbles = np.concatenate([packed[..., :8] & 15, packed[..., :8] >> 4], -1)
            pairs = np.concatenate([packed[..., 8:12] >> shift & 3 for shift in (0, 2, 4, 6)], -1)
            return _less_32(nibbles | pairs << 4), none
        case "split_six_bit":
            nibbles = np.stack([packed[..., 2:6] & 15, packed[..., 2:6] >> 4], -1)
            pairs = np.stack([packed[..., i // 4] >> 2 * (i % 4) & 3 for i in range(8)], -1)
            return _less_32(nibbles.reshape(pairs.shape) | pairs << 4), none
        case "none":
            return none, none


def _less_32(codes: NDArray[Any]) -> Bytes:
    """6-bit codes as int8, by its bits."""
    return (codes - 32).astype(np.uint8)
