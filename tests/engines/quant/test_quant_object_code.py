"""Compiled kernels in files: loaded without the compiler, made again where a file is no good."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from enginebench_quant.kernels import table
from enginebench_quant.kernels.features import choose_level
from enginebench_quant.kernels.object_code import load_code, read_code, write_code
from enginebench_quant.kernels.table import Kernels

RESET = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)


def reset_words(kernels: Kernels) -> list[int]:
    """What the kernel `reset` makes of three words on cache lines of their own."""
    words = np.zeros(24, np.int64)
    kernels.interpreter()[1](words.ctypes.data, 3, 7)
    return words[::8].tolist()


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Kernels, list[str]]:
    """Kernels of which nothing is loaded or on disk, and what they log."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    lines: list[str] = []
    return Kernels(choose_level("plain"), tmp_path, lines.append), lines


def test_code_is_compiled_once_and_whoever_waits_is_told(
    fresh: tuple[Kernels, list[str]], tmp_path: Path
) -> None:
    kernels, lines = fresh
    assert reset_words(kernels) == [7, 7, 7]
    kernels.report()
    assert lines[0].startswith("compiling kernels for plain (only at the first start")
    assert lines[1].startswith("compiled 2 kernels in ")
    program = (
        "import sys; from pathlib import Path\n"
        "from enginebench_quant.kernels.table import Kernels\n"
        "from enginebench_quant.kernels.features import choose_level\n"
        "import enginebench_quant.load, enginebench_quant.model\n"
        f"Kernels(choose_level('plain'), Path({str(tmp_path)!r}), log=print).interpreter()\n"
        "print([name for name in ('numba', 'scipy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_damaged_file_is_compiled_again(
    fresh: tuple[Kernels, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, lines = fresh
    kernels.interpreter()
    for path in Path(str(kernels._folder)).glob("*.o"):
        path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(table, "_addresses", {})
    lines.clear()
    again = Kernels(kernels.level, kernels._folder.parent, lines.append)
    assert reset_words(again) == [7, 7, 7]
    assert len(lines) == 1


def test_files_hold_what_was_written_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kernel.o"
    assert read_code(path) is None
    write_code(path, b"some code")
    assert read_code(path) == b"some code"
    for content in (b"", b"short", path.read_bytes()[:-1], path.read_bytes() + b"x"):
        path.write_bytes(content)
        assert read_code(path) is None
    assert [each.name for each in path.parent.iterdir()] == ["kernel.o"]


def test_code_that_was_kept_computes_the_same(fresh: tuple[Kernels, list[str]]) -> None:
    kernels, _ = fresh
    kernels.interpreter()
    code = read_code(kernels._folder / "reset.o")
    assert code is not None
    words = np.zeros(24, np.int64)
    RESET(load_code(code))(words.ctypes.data, 2, 9)
    assert words[::8].tolist() == [9, 9, 0]
