from __future__ import annotations

from pathlib import Path

import pytest
import simulated

from enginebench.results import ResultSet


@pytest.fixture(scope="session")
def contest(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    """`paged` against `quant` at 1, 4 and 16, all cells fine."""
    return simulated.contest(tmp_path_factory.mktemp("contest") / "run")


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    """A Run with everything that goes wrong: failed, pending, erroneous and wordless cells."""
    fine = simulated.serve(simulated.Speed(50, 10), 1, requests=12)
    hostile = "<script>alert('x')</script> | `paged` \x1b[31m"
    broken = [simulated.record(i, chunks_ms=(), error="connection reset") for i in range(3)]
    silent = [simulated.record(i, chunks_ms=(), end_ms=5, completion_tokens=0) for i in range(3)]
    data = [
        ("quant", fine),
        ("paged", simulated.failed(hostile, f"{hostile}\nTraceback\n```\n")),
        ("vllm", None),
        ("reset", simulated.data(broken)),
        ("silent", simulated.data(silent)),
        ("nothing", simulated.data([])),
    ]
    cells = [(simulated.cell(i, name, 1), found) for i, (name, found) in enumerate(data)]
    folder: Path = tmp_path_factory.mktemp("troubled") / "run"
    return simulated.save(folder, cells)
