"""A few seconds of what `tests/benchmarks/paged_fuzz.py` does for as long as one likes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from enginebench_models import open_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "paged_fuzz.py"


@pytest.mark.usefixtures("on_the_cpu")
def test_random_work_leaks_no_block_and_changes_no_answer() -> None:
    spec = importlib.util.spec_from_file_location("paged_fuzz", SCRIPT)
    assert spec is not None and spec.loader is not None
    fuzz = sys.modules["paged_fuzz"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    rounds = [fuzz.one_round(open_model("synthetic:tiny"), seed, checked=2) for seed in (1, 3)]
    for name in ("finished", "aborted", "preemptions", "hit_tokens", "accepted_tokens"):
        assert sum(getattr(one, name) for one in rounds) > 0, name
