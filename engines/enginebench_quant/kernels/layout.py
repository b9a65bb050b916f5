"""How tensors are interleaved for the kernels, in plain numpy; `packing.py` does the same faster.

Packed arrays have the shape (groups, steps, lanes * block_bytes); rows are padded with zeros to a
whole group, columns of float formats to a whole step.
"""

from __future__ import annotations

import numpy as np

from enginebench_quant.kernels.formats import FORMATS, BlockFormat, FloatFormat

__all__ = ["pack", "packed_shape"]


def packed_shape(kind: str, rows: int, columns: int, lanes: int) -> tuple[int, int, int]:
    """Groups, steps and bytes of a step."""
    form = FORMATS[kind]
    return -(-rows // lanes), -(-columns // form.block), lanes * form.block_bytes


def pack(kind: str, data: np.ndarray, lanes: int, out: np.ndarray) -> None:
    """Interleave `data` (rows, bytes of a row) uint8 into `out` of `packed_shape`."""
    form, rows = FORMATS[kind], _whole_groups(data, lanes)
    if isinstance(form, FloatFormat):
        _pack_floats(form, rows, lanes, out)
    else:
        assert isinstance(form, BlockFormat)
        _pack_blocks(form, rows, lanes, out)


def _whole_groups(rows: np.ndarray, lanes: int) -> np.ndarray:
    missing = -rows.shape[0] % lanes
    return np.pad(rows, ((0, missing), (0, 0))) if missing else rows


def _pack_floats(form: FloatFormat, rows: np.ndarray, lanes: int, out: np.ndarray) -> None:
    kind = np.dtype(f"u{form.element_bytes}")
    values = rows.view(kind)  # (rows, columns)
    missing = -values.shape[1] % form.block
    if missing:
        values = np.pad(values, ((0, 0), (0, missing)))
    groups, steps = out.shape[:2]
    target = out.view(kind).reshape(groups, steps * form.block, lanes)
    target[:] = values.reshape(groups, lanes, -1).transpose(0, 2, 1)


def _pack_blocks(form: BlockFormat, rows: np.ndarray, lanes: int, out: np.ndarray) -> None:
    groups, steps = out.shape[:2]
    blocks = rows.reshape(groups, lanes, steps, form.block_bytes)
    at = 0
    for field in range(1 + form.has_min):  # scale, minimum
        at = _put(out, at, blocks[..., 2 * field : 2 * field + 2], "u2")
    codes = 2 + 2 * form.has_min
    if form.bits == 5:
        at = _put(out, at, _high_bits(blocks[..., codes : codes + 4]), "u4")
        codes += 4
    for word in range(codes, form.block_bytes, 4):
        at = _put(out, at, blocks[..., word : word + 4], "u4")


def _put(out: np.ndarray, at: int, field: np.ndarray, kind: str) -> int:
    """One field of every block, the rows of a group side by side; returns where the next goes."""
    lanes, size = field.shape[1], field.shape[3]
    values = np.ascontiguousarray(field).view(kind)[..., 0]
    target = out[:, :, at : at + lanes * size].view(kind)
    target[:] = values.transpose(0, 2, 1)
    return at + lanes * size


def _high_bits(words: np.ndarray) -> np.ndarray:
    """Bit 4*j + i of each block's 32 high bits becomes bit j of byte i."""
    bits = np.unpackbits(words, axis=-1, bitorder="little")
    by_byte = bits.reshape(*words.shape[:-1], 8, 4).swapaxes(-1, -2)
    return np.packbits(by_byte, axis=-1, bitorder="little")[..., 0]
