"""Launch configurations of the Triton kernels: one row per chip, fixed ahead of time.

Nothing is tuned at run time: a search takes minutes, and its winner changes from start to start.
A chip without a row gets `_ANY_CHIP`, whose tiles fit 99 KiB of shared memory. To fill in a row,
run tests/benchmarks/kernels_gpu.py on the chip: it times the candidates and names the winners.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """Decode attention: keys a tile, and how many programs a multiprocessor should get by
    splitting (0: no splitting).
    """

    tile: int
    programs_per_sm: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """Prefill attention: query rows (token, head pairs) and keys a tile."""

    rows: int
    tile: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class FmaConfig:
    """Product with one row on the vector units: weight rows and columns a tile, parts of K."""

    rows: int
    columns: int
    split_k: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class DotConfig:
    """Product with up to 64 rows on the matrix units: as above, and pipeline stages."""

    rows: int
    columns: int
    split_k: int
    num_warps: int
    num_stages: int


GemvConfig = FmaConfig | DotConfig


@dataclass(frozen=True, slots=True)
class GemvRule:
    """The configuration for M, N and K up to these, None for the library's product; of a chip's
    rules the first that fits is taken.
    """

    max_m: int
    max_n: int
    max_k: int
    config: GemvConfig | None


@dataclass(frozen=True, slots=True)
class QuantizedConfig:
    """Product with weights of 8 or 4 bits: rows of W and of x (`columns`) a tile, parts of K.

    One column: on the vector units, `depth` groups of W's columns a tile.
    """

    rows: int
    columns: int
    split_k: int
    num_warps: int
    num_stages: int
    depth: int = 1


@dataclass(frozen=True, slots=True)
class QuantizedRule:
    """The configuration for M and N up to these; of a chip's rules the first that fits is taken,
    the last one fits all.
    """

    max_m: int
    max_n: int
    config: QuantizedConfig


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """Sampling: vocabulary entries a program of the first stage, and a tile of the filter stage."""

    tile: int
    num_warps: int
    filter_tile: int
    filter_warps: int


@dataclass(frozen=True, slots=True)
class Chip:
    """What the launchers need to know of a device."""

    sm_count: int
    shared_bytes: int  # that one program may have
    dependent_launch: bool  # can a kernel start while the one before it ends
    found: str  # how the figures below were found
    decode: DecodeConfig
    prefill: PrefillConfig
    gemv: tuple[GemvRule, ...]  # empty: use the library's product
    quantized: tuple[QuantizedRule, ...]
    sample: SampleConfig

    @property
    def most_skinny_rows(self) -> int:
        """Up to how many rows of x a product counts as skinny."""
        return max((rule.max_m for rule in self.quantized[:-1] if rule.max_m <= 16), default=0)


_ANY = 2**31 - 1
_SAMPLE = SampleConfig(tile=2048, num_warps=4, filter_tile=4096, filter_warps=16)


def _hopper(sm_count: int) -> Chip:
    return Chip(
        sm_count,
        shared_bytes=227 << 10,
        dependent_launch=True,
        found="timed on one H100 80GB HBM3 on 2026-11-23 by tests/benchmarks/kernels_gpu.py",
        decode=DecodeConfig(tile=32, programs_per_sm=2, num_warps=4, num_stages=3),
        prefill=PrefillConfig(rows=128, tile=64, num_warps=8, num_stages=3),
        gemv=(
            GemvRule(1, 2560, 2048, FmaConfig(2, 1024, 1, 4)),
            GemvRule(1, _ANY, _ANY, FmaConfig(2, 2048, 1, 4)),
            GemvRule(16, 2048, _ANY, DotConfig(64, 128, 4, 4, 4)),
            GemvRule(16, 2560, 2048, DotConfig(128, 64, 4, 4, 5)),
            GemvRule(16, 4096, _ANY, DotConfig(32, 256, 1, 4, 4)),
            GemvRule(16, _ANY, _ANY, DotConfig(64, 256, 1, 4, 3)),
            GemvRule(64, 2048, _ANY, DotConfig(64, 128, 4, 4, 4)),
            GemvRule(32, 2560, 2048, DotConfig(64, 128, 2, 4, 4)),
            GemvRule(32, 4096, _ANY, DotConfig(64, 128, 2, 4, 4)),
            GemvRule(64, 4096, 4096, None),
            GemvRule(64, 4096, _ANY, DotConfig(64, 128, 2, 4, 4)),
            GemvRule(32, 6144, _ANY, DotConfig(64, 128, 1, 4, 4)),
            GemvRule(64, 6144, _ANY, None),
            GemvRule(64, 22016, 2048, DotConfig(64, 128, 1, 4, 4)),
            GemvRule(64, _ANY, _ANY, DotConfig(128, 128, 1, 8, 3)),
        ),
        quantized=(  # sized by reading the compiler's output; not timed yet
            QuantizedRule(1, _ANY, QuantizedConfig(4, 1, 1, 4, 1, depth=8)),
            QuantizedRule(16, 3072, QuantizedConfig(64, 16, 8, 4, 4)),
            QuantizedRule(16, 8192, QuantizedConfig(64, 16, 4, 4, 4)),
            QuantizedRule(16, _ANY, QuantizedConfig(64, 16, 1, 4, 4)),
            QuantizedRule(64, 8192, QuantizedConfig(64, 64, 4, 4, 4)),
            QuantizedRule(64, _ANY, QuantizedConfig(64, 64, 1, 4, 4)),
            QuantizedRule(_ANY, _ANY, QuantizedConfig(128, 128, 1, 8, 3)),
        ),
        sample=_SAMPLE,
    )


def _any_chip(sm_count: int) -> Chip:
    return Chip(
        sm_count,
        shared_bytes=99 << 10,
        dependent_launch=False,
        found="sized to fit 99 KiB of shared memory; not timed",
        decode=DecodeConfig(tile=32, programs_per_sm=4, num_warps=4, num_stages=2),
        prefill=PrefillConfig(rows=64, tile=32, num_warps=4, num_stages=2),
        gemv=(),
        quantized=(
            QuantizedRule(16, _ANY, QuantizedConfig(32, 16, 2, 4, 2)),
            QuantizedRule(_ANY, _ANY, QuantizedConfig(64, 64, 1, 4, 2)),
        ),
        sample=_SAMPLE,
    )


_CHIPS = {(9, 0): _hopper}


@dataclass(frozen=True, slots=True)
class Techniques:
    """What can be switched off in a process, to see what it is worth."""

    split_kv: bool = True
    skinny_products: bool = True
    early_launch: bool = True


_techniques = Techniques()


def switch(techniques: Techniques) -> None:
    """Say what this process's kernels use from now on; before the first graph is captured."""
    global _techniques
    _techniques = techniques
    chip.cache_clear()


@lru_cache
def chip(device: torch.device) -> Chip:
    """The row for a device; a CPU (Triton's interpreter) counts as a small unknown chip."""
    if device.type != "cuda":
        return _restricted(_any_chip(sm_count=8), _techniques)
    properties = torch.cuda.get_device_properties(device)
    row = _CHIPS.get((properties.major, properties.minor), _any_chip)
    return _restricted(row(properties.multi_processor_count), _techniques)


def _restricted(row: Chip, techniques: Techniques) -> Chip:
    decode = row.decode if techniques.split_kv else replace(row.decode, programs_per_sm=0)
    return replace(
        row,
        decode=decode,
        gemv=row.gemv if techniques.skinny_products else (),
        quantized=row.quantized if techniques.skinny_products else row.quantized[-1:],
        dependent_launch=row.dependent_launch and techniques.early_launch,
    )


def gemv_config(device: torch.device, m: int, n: int, k: int) -> GemvConfig | None:
    """The configuration for x (m, k) times W (n, k) transposed; None: use the library's product."""
    for rule in chip(device).gemv:
        if m <= rule.max_m and n <= rule.max_n and k <= rule.max_k:
            return rule.config
    return None


def quantized_config(device: torch.device, m: int, n: int) -> QuantizedConfig:
    """The configuration for x (m, K) times a quantized W (n, K) transposed."""
    rules = chip(device).quantized
    return next(rule.config for rule in rules if m <= rule.max_m and n <= rule.max_n)


def rounds_rows(device: torch.device, m: int) -> bool:
    """Whether so many rows are multiplied in fp8 with fp8 weights: not by a skinny product."""
    return m > chip(device).most_skinny_rows
