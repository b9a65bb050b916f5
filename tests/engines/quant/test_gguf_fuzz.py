"""A few hundred damaged GGUF files; `tests/benchmarks/gguf_fuzz.py` opens thousands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gguf_fuzz.py"


def test_a_damaged_file_opens_or_is_refused_by_a_field() -> None:
    command = [sys.executable, str(SCRIPT), "--files", "300", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("300 files: ") and "refused" in done.stdout
