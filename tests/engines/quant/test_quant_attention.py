"""Rotation, cache writes and attention, against plain numpy, as decode and as prompt chunks."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from enginebench_models import GGMLType, dequantize, quantize
from enginebench_quant.kernels.arguments import (
    ATTEND_ARGUMENTS,
    ATTEND_ONE_ARGUMENTS,
    MERGE_ARGUMENTS,
    ROPE_ARGUMENTS,
    part_floats,
)
from enginebench_quant.kernels.cache_layout import block_bytes
from enginebench_quant.kernels.reference import attention, rms_norm, rotate_halves
from enginebench_quant.kernels.table import Kernels

KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
Floats = NDArray[np.float32]
CAPACITY = 240
EPS = 1e-5


@dataclass(frozen=True)
class Heads:
    kv_heads: int
    group: int
    head_dim: int

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group


@dataclass
class Cache:
    """Keys and values of one layer, poisoned with large values where nothing was written yet."""

    keys: NDArray[np.uint8]
    values: NDArray[np.uint8]

    @classmethod
    def of(cls, heads: Heads, lanes: int, bits: int) -> Cache:
        padded = -(-heads.head_dim // lanes) * lanes
        size = heads.kv_heads * CAPACITY
        if bits == 16:
            sizes = size * heads.head_dim, size * padded
            return cls(*(np.full(n, 60000, np.float16).view(np.uint8) for n in sizes))
        n_bytes = size * heads.head_dim // 32 * block_bytes(bits)
        return cls(*(np.full(n_bytes, 0x75, np.uint8) for _ in range(2)))


def remembered(rows: Floats, bits: int) -> Floats:
    """What a cache of so many bits makes of rows, by the reference quantizers."""
    if bits == 16:
        return rows.astype(np.float16).astype(np.float32)
    kind = {8: GGMLType.Q8_0, 4: GGMLType.Q4_0}[bits]
    blocks = np.ascontiguousarray(rows).reshape(-1, 32)
    return dequantize(quantize(blocks, kind), kind, blocks.shape).reshape(rows.shape)


def float_bits(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def address(values: NDArray[np.generic] | None) -> int:
    return 0 if values is None else values.ctypes.data


def run(kernel: int, names: tuple[str, ...], values: dict[str, int], end: int) -> None:
    arguments = np.array([values[name] for name in names], np.int64)
    KERNEL(kernel)(arguments.ctypes.data, 0, end, 0)


class Layer:
    """One attention layer driven chunk by chunk through the kernels and through numpy."""

    def __init__(
        self,
        kernels: Kernels,
        heads: Heads,
        *,
        extras: bool,
        window: int | None = None,
        softcap: float | None = None,
        bits: int = 16,
    ) -> None:
        self.bits = bits
        self.kernels, self.heads, self.extras = kernels, heads, extras
        self.window, self.softcap = window, softcap
        self.cache = Cache.of(heads, kernels.level.lanes, bits)
        self.random = np.random.default_rng(heads.head_dim)
        self.frequencies = 1e4 ** -(np.arange(heads.head_dim // 2) * 2 / heads.head_dim)
        width = heads.heads * heads.head_dim
        kv_width = heads.kv_heads * heads.head_dim
        self.biases = [self._normal(n) if extras else None for n in (width, kv_width, kv_width)]
        self.norms = [self._normal(heads.head_dim) if extras else None for _ in range(2)]
        self.seen_k = np.zeros((0, heads.kv_heads, heads.head_dim), np.float32)
        self.seen_v = self.seen_k

    def _normal(self, *shape: int) -> Floats:
        return self.random.standard_normal(shape, np.float32)

    def chunk(self, tokens: int, rows: int) -> tuple[Floats, Floats]:
        """Attention of `tokens` new tokens, `rows` at a time: by the kernels, by numpy."""
        heads, padded = self.heads, -(-tokens // rows) * rows
        q = np.zeros((padded, heads.heads, heads.head_dim), np.float32)
        k, v = (np.zeros((padded, heads.kv_heads, heads.head_dim), np.float32) for _ in range(2))
        for part in (q, k, v):
            part[:tokens] = self._normal(*part[:tokens].shape)
        position = len(self.seen_k)
        expected = self._expected(q[:tokens], k[:tokens], v[:tokens], position)
        return self._computed(q, k, v, tokens, position, rows), expected

    def _expected(self, q: Floats, k: Floats, v: Floats, position: int) -> Floats:
        positions = np.arange(position, position + len(q))
        if self.extras:
            q, k, v = (x + b.reshape(x.shape[1:]) for x, b in zip((q, k, v), self.biases))  # type: ignore[union-attr]  # noqa: B905
            q, k = (rms_norm(x, w, EPS) for x, w in zip((q, k), self.norms))  # type: ignore[arg-type]  # noqa: B905
        q, k = (rotate_halves(x, positions, self.frequencies) for x in (q, k))
        self.seen_k = np.concatenate([self.seen_k, remembered(k, self.bits)])
        self.seen_v = np.concatenate([self.seen_v, remembered(v, self.bits)])
        scale, keys, values = self.heads.head_dim**-0.5, self.seen_k, self.seen_v
        return attention(q, keys, values, scale, window=self.window, softcap=self.softcap)

    def _computed(
        self, q: Floats, k: Floats, v: Floats, tokens: int, position: int, rows: int
    ) -> Floats:
        heads = self.heads
        angles = np.arange(position, position + tokens)[:, None] * self.frequencies
        cos_sin = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        state = np.array([tokens, position], np.int64)
        scratch = np.full(
            (max(rows, heads.group) * (2 * CAPACITY + 2 * heads.head_dim + 16),), np.nan
        )
        scratch = scratch.astype(np.float32)
        out = np.full_like(q, np.nan)
        values = {
            "q": address(q),
            "k": address(k),
            "v": address(v),
            "q_stride": q.strides[0],
            "kv_stride": k.strides[0],
            "q_bias": address(self.biases[0]),
            "k_bias": address(self.biases[1]),
            "v_bias": address(self.biases[2]),
            "q_norm": address(self.norms[0]),
            "k_norm": address(self.norms[1]),
            "eps": float_bits(EPS),
            "head_dim": heads.head_dim,
            "kv_heads": heads.kv_heads,
            "group": heads.group,
            "cos_sin": address(cos_sin),
            "k_cache": address(self.cache.keys),
            "v_cache": address(self.cache.values),
            "capacity": CAPACITY,
            "state": address(state),
            "out": address(out),
            "scale": float_bits(heads.head_dim**-0.5),
            "scratch": address(scratch),
            "scratch_bytes": scratch.nbytes,
            "window": self.window or 0,
            "softcap": float_bits(self.softcap or 0.0),
        }
        run(self.kernels.rope(self.bits), ROPE_ARGUMENTS, values, tokens * heads.kv_heads)
        if rows == 1:
            self._attend_one(values)
        else:
            pairs = -(-tokens // rows) * heads.heads
            run(self.kernels.attend(rows, self.bits), ATTEND_ARGUMENTS, values, pairs)
        return out[:tokens]

    def _attend_one(self, values: dict[str, int]) -> None:
        heads, splits = self.heads, 3
        part = part_floats(heads.group, heads.head_dim, self.kernels.level.lanes)
        parts = np.full(heads.kv_heads * splits * part, np.nan, np.float32)
        values = values | {"parts": address(parts), "splits": splits}
        kernel = self.kernels.attend_one(heads.group, self.bits)
        run(kernel, ATTEND_ONE_ARGUMENTS, values, heads.kv_heads * splits)
        run(self.kernels.merge(), MERGE_ARGUMENTS, values, heads.heads)


@pytest.mark.parametrize(
    "heads", [Heads(1, 1, 16), Heads(3, 3, 64), Heads(2, 7, 8), Heads(2, 4, 80), Heads(1, 2, 20)]
)
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "bias-and-norm"])
def test_chunks_then_decode_match_numpy(kernels: Kernels, heads: Heads, extras: bool) -> None:
    layer = Layer(kernels, heads, extras=extras)
    for tokens, rows in ((1, 1), (13, 8), (1, 1), (51, 8), (1, 1), (140, 8), (1, 1)):
        found, expected = layer.chunk(tokens, rows)
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("window", [1, 7, 16, 33, 500])
def test_a_window_hides_what_lies_before_it(kernels: Kernels, window: int) -> None:
    layer = Layer(kernels, Heads(2, 2, 16), extras=False, window=window)
    for tokens, rows in ((1, 1), (13, 8), (1, 1), (51, 8), (1, 1), (100, 4), (1, 1)):
        found, expected = layer.chunk(tokens, rows)
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("window", [None, 20])
def test_scores_are_capped(kernels: Kernels, window: int | None) -> None:
    layer = Layer(kernels, Heads(1, 2, 32), extras=False, window=window, softcap=0.7)
    for tokens, rows in ((13, 8), (1, 1), (51, 8), (1, 1)):
        found, expected = layer.chunk(tokens, rows)
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("heads", [Heads(1, 2, 32), Heads(3, 2, 64)])
def test_a_cache_in_q4_0(kernels: Kernels, heads: Heads) -> None:
    check_quantized(kernels, heads, 4)


@pytest.mark.parametrize("heads", [Heads(1, 2, 96), Heads(3, 2, 64)])
def test_a_cache_in_q8_0(best_kernels: Kernels, heads: Heads) -> None:
    check_quantized(best_kernels, heads, 8)


def check_quantized(kernels: Kernels, heads: Heads, bits: int) -> None:
    """It is what the reference quantizers make of keys and values.

    An element close to the middle of two codes may be rounded the other way: a good part of the
    outputs agrees as a cache in f16 does, none differs by more than such elements explain.
    """
    layer = Layer(kernels, heads, extras=False, bits=bits)
    for tokens, rows in ((13, 8), (1, 1), (51, 8), (1, 1), (140, 8), (1, 1)):
        found, expected = layer.chunk(tokens, rows)
        errors = np.abs(found - expected) / np.abs(expected).max()
        assert np.quantile(errors, 0.5) < 1e-4
        assert errors.max() < {8: 1e-2, 4: 0.1}[bits]
