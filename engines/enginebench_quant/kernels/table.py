"""The table of kernels: (name, tensor type, CPU level, tile) -> compiled code.

Kernels are compiled when a model first needs them and kept on disk; whoever waits is told why. The
files lie in a folder named for the sources of this package, the compiler and the CPU: an edit of
any of them makes new ones.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from enginebench_quant.kernels.features import CpuLevel
from enginebench_quant.kernels.object_code import (
    compiled_code,
    host_name,
    load_code,
    read_code,
    write_code,
)

__all__ = ["Kernels"]

RUN = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)
RESET = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)


@functools.cache
def _sources_digest() -> str:
    digest = hashlib.sha256(f"{version('numba')} {host_name()}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_addresses: dict[tuple[object, ...], int] = {}  # of what this process has loaded


class Kernels:
    """Compiles the kernels of one CPU level on demand; `log` hears of compilation that takes time.

    Compiled code is kept below `folder` (NUMBA_CACHE_DIR, if set, goes first). The addresses that
    it returns are valid as long as the process lives.
    """

    def __init__(self, level: CpuLevel, folder: Path, log: Callable[[str], None]) -> None:
        self.level = level
        self._log = log
        self._folder = Path(os.environ.get("NUMBA_CACHE_DIR") or folder) / _sources_digest()
        self._compiled, self._compile_s = 0, 0.0

    def matmul(self, kind: str, tokens: int) -> int:
        """Matrix product with weights of type `kind`, `tokens` activations at a time."""
        return self._address("matmul", "matmul", kind, self.level.name, tokens)

    def pack(self, kind: str) -> int:
        """Interleave the rows of a tensor of type `kind`."""
        return self._address("packing", "pack", kind, self.level.lanes)

    def norm(self, tile: int) -> int:
        return self._address("elementwise", "norm", self.level.name, tile)

    def quantize(self, tile: int) -> int:
        return self._address("elementwise", "quantize", self.level.name, tile)

    def norm_add(self) -> int:
        return self._address("elementwise", "norm_add", self.level.name)

    def gate(self, tile: int, activation: str) -> int:
        return self._address("elementwise", "gate", self.level.name, tile, activation)

    def cap(self) -> int:
        return self._address("attention", "cap", self.level.name)

    def route(self) -> int:
        return self._address("experts", "route", self.level.name)

    def expert_matmul(self, kind: str) -> int:
        """Products with the experts in use, whose weights are of type `kind`."""
        return self._address("experts", "expert_matmul", kind, self.level.name)

    def join(self) -> int:
        """What a token's experts yield into the residual stream."""
        return self._address("experts", "join", self.level.name)

    def rope(self, bits: int = 16) -> int:
        """Rotation, and writing of a cache whose elements have `bits`."""
        return self._address("rope", "rope", self.level.name, bits)

    def attend(self, rows: int, bits: int = 16) -> int:
        """Attention of a chunk, `rows` tokens at a time."""
        return self._address("attention", "attend", self.level.name, rows, bits)

    def attend_one(self, group: int, bits: int = 16) -> int:
        """Parts of one token's attention; `group` query heads share a kv head."""
        return self._address("decode_attention", "attend_one", self.level.name, group, bits)

    def merge(self) -> int:
        """Parts of one token's attention into its result."""
        return self._address("decode_attention", "merge", self.level.name)

    def interpreter(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """`run` and `reset` of interpreter.py; other threads run meanwhile."""
        run, reset = (self._address("interpreter", name) for name in ("run", "reset"))
        return RUN(run), RESET(reset)

    def report(self) -> None:
        """Tell the log how long compilation took, if there was any."""
        if self._compiled:
            self._log(f"compiled {self._compiled} kernels in {self._compile_s:.1f} s")

    def _address(self, module: str, name: str, *key: str | int) -> int:
        """Of what `build_<name>` of a module here makes for `key`."""
        label = (self._folder, name, *key)
        if label not in _addresses:
            path = self._folder / f"{'-'.join(map(str, (name, *key)))}.o"
            code = read_code(path)
            if code is None:
                code = self._compile(module, name, *key)
                write_code(path, code)
            _addresses[label] = load_code(code)
        return _addresses[label]

    def _compile(self, module: str, name: str, *key: str | int) -> bytes:
        if not self._compiled:
            self._log(
                f"compiling kernels for {self.level.name} (only at the first start with a kind of "
                f"model; kept in {self._folder})"
            )
        started = time.perf_counter()
        build = getattr(importlib.import_module(f"{__package__}.{module}"), f"build_{name}")
        code = compiled_code(build(*key))
        self._compiled += 1
        self._compile_s += time.perf_counter() - started
        return code
