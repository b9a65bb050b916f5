"""A few seconds of what `tests/benchmarks/server_soak.py` does for as long as one likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "server_soak.py"


@pytest.mark.slow
def test_a_server_that_was_badly_treated_is_left_with_nothing():
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--engine", "echo", "--minutes", "0.05", "--clients", "12"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "in flight at the end 0" in ran.stdout
