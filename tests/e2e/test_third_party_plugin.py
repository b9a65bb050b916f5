"""The engine in docs/plugins.md, installed as a stranger would install it, and then measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import enginebench

DOCUMENT = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^```\w+\n# file: (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
Bench = Callable[..., "subprocess.CompletedProcess[str]"]


def files_of_the_document() -> dict[str, str]:
    return dict(BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip installed the package of the document."""
    source = tmp_path_factory.mktemp("source")
    for name, text in files_of_the_document().items():
        (source / name).write_text(text)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    where = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *where, str(source)], check=True, timeout=120)
    return target


@pytest.fixture
def bench(installed: Path, tmp_path: Path) -> Bench:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from enginebench.cli import main; main()", *arguments],
            env={**os.environ, "PYTHONPATH": str(installed)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call


def test_the_document_holds_a_whole_package() -> None:
    assert set(files_of_the_document()) == {"pyproject.toml", "bench_parrot.py"}


@pytest.mark.slow
def test_it_is_listed_with_its_origin_and_options(bench: Bench) -> None:
    listed = bench("engines")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"parrot .* bench-parrot 0\.1\.0", listed.stdout)
    shown = bench("engines", "parrot")
    assert "runs here: yes" in shown.stdout
    assert "pause_ms" in shown.stdout


@pytest.mark.slow
def test_it_is_measured(bench: Bench, tmp_path: Path) -> None:
    arguments = "--engines parrot --model synthetic:tiny --set parrot.pause_ms=1,5 --hardware cpu:1"
    budget = "--concurrency 2 --requests 4 --output-tokens 8 --input-tokens 4 --no-report"
    result = bench("run", *arguments.split(), *budget.split())
    assert result.returncode == 0, result.stdout + result.stderr
    [run] = (tmp_path / "runs").iterdir()
    fast, slow = enginebench.load(run)
    assert (fast.cell.spec.label, slow.cell.spec.label) == (
        "parrot pause_ms=1.0",
        "parrot pause_ms=5.0",
    )
    for result_cell, pause_s in ((fast, 0.001), (slow, 0.005)):
        records = [r for r in result_cell.records.to_pylist() if r["phase"] == "measure"]
        assert len(records) >= 4
        assert all(r["error"] is None and r["completion_tokens"] == 8 for r in records)
        assert all(r["end_ns"] - r["sent_ns"] >= 8 * pause_s * 1e9 for r in records)
