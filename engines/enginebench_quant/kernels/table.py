"""The table of kernels: (name, tensor type, CPU level, tile) -> compiled code.

Kernels are compiled when a model first needs them and kept on disk by numba; whoever waits is told
why. The disk cache lies in a folder named for the sources of this package, because numba itself
notices only edits of the file that a kernel stands in.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numba
from numba.core import config as numba_config

from enginebench_quant.kernels.attention import build_attend, build_cap
from enginebench_quant.kernels.crew import build_reset, build_run
from enginebench_quant.kernels.decode_attention import build_attend_one, build_merge
from enginebench_quant.kernels.elementwise import (
    build_gate,
    build_norm,
    build_norm_add,
    build_quantize,
)
from enginebench_quant.kernels.experts import build_expert_matmul, build_join, build_route
from enginebench_quant.kernels.features import CpuLevel
from enginebench_quant.kernels.matmul import build_matmul
from enginebench_quant.kernels.packing import build_pack
from enginebench_quant.kernels.rope import build_rope

__all__ = ["Kernels"]


def _sources_digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Kernels:
    """Compiles the kernels of one CPU level on demand; `log` hears of compilation that takes time.

    Compiled code is kept below `folder` (NUMBA_CACHE_DIR, if set, goes first), for all kernels of
    the process. The addresses that it returns are valid as long as it lives.
    """

    def __init__(self, level: CpuLevel, folder: Path, log: Callable[[str], None]) -> None:
        self.level = level
        self._log = log
        self._folder = Path(os.environ.get("NUMBA_CACHE_DIR") or folder) / _sources_digest()
        numba_config.CACHE_DIR = str(self._folder)  # type: ignore[attr-defined]
        self._built: dict[tuple[object, ...], object] = {}
        self._compiled, self._compile_s = 0, 0.0

    def matmul(self, kind: str, tokens: int) -> int:
        """Matrix product with weights of type `kind`, `tokens` activations at a time."""
        return self._address(build_matmul, kind, self.level.name, tokens)

    def pack(self, kind: str) -> int:
        """Interleave the rows of a tensor of type `kind`."""
        return self._address(build_pack, kind, self.level.lanes)

    def norm(self, tile: int) -> int:
        return self._address(build_norm, self.level.name, tile)

    def quantize(self, tile: int) -> int:
        return self._address(build_quantize, self.level.name, tile)

    def norm_add(self) -> int:
        return self._address(build_norm_add, self.level.name)

    def gate(self, tile: int, activation: str) -> int:
        return self._address(build_gate, self.level.name, tile, activation)

    def cap(self) -> int:
        return self._address(build_cap, self.level.name)

    def route(self) -> int:
        return self._address(build_route, self.level.name)

    def expert_matmul(self, kind: str) -> int:
        """Products with the experts in use, whose weights are of type `kind`."""
        return self._address(build_expert_matmul, kind, self.level.name)

    def join(self) -> int:
        """What a token's experts yield into the residual stream."""
        return self._address(build_join, self.level.name)

    def rope(self, bits: int = 16) -> int:
        """Rotation, and writing of a cache whose elements have `bits`."""
        return self._address(build_rope, self.level.name, bits)

    def attend(self, rows: int, bits: int = 16) -> int:
        """Attention of a chunk, `rows` tokens at a time."""
        return self._address(build_attend, self.level.name, rows, bits)

    def attend_one(self, group: int, bits: int = 16) -> int:
        """Parts of one token's attention; `group` query heads share a kv head."""
        return self._address(build_attend_one, self.level.name, group, bits)

    def merge(self) -> int:
        """Parts of one token's attention into its result."""
        return self._address(build_merge, self.level.name)

    def interpreter(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """The compiled `run` and `reset` of crew.py."""
        return self._build(build_run), self._build(build_reset)

    def report(self) -> None:
        """Tell the log how long compilation took, if there was any."""
        if self._compiled:
            self._log(f"compiled {self._compiled} kernels in {self._compile_s:.1f} s")

    def _address(self, build: Callable[..., object], *key: object) -> int:
        return self._build(build, *key).address

    def _build(self, build, *key):
        if (build, *key) not in self._built:
            started = time.perf_counter()
            function = self._built[build, *key] = build(*key)
            self._note(function, time.perf_counter() - started)
        return self._built[build, *key]

    def _note(self, function, seconds: float) -> None:
        stats = getattr(function, "stats", None)
        hits = sum(stats.cache_hits.values()) if stats else function.cache_hits
        if hits:
            return
        if not self._compiled:
            self._log(
                f"compiling kernels for {self.level.name} (only at the first start with a kind of "
                f"model; kept in {self._folder})"
            )
        self._compiled += 1
        self._compile_s += seconds
