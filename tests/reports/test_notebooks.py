"""Every notebook runs from top to bottom, on the Run that lies beside it and on a simulated one."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from simulated import contest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))

pytestmark = pytest.mark.slow


def output_of(notebook: Path) -> str:
    """Execute; all text that its cells printed or returned."""
    document = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        document, kernel_name="python3", resources={"metadata": {"path": str(notebook.parent)}}
    )
    client.execute()
    outputs = [each for cell in document.cells for each in cell.get("outputs", ())]
    return "".join(
        str(each.get("text", "")) + str(each.get("data", {}).get("text/plain", ""))
        for each in outputs
    )


def test_there_are_notebooks() -> None:
    assert "first_look.ipynb" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_on_its_own_run(name: str) -> None:
    if not (NOTEBOOKS / "runs").is_dir():
        pytest.skip("no Runs are committed in notebooks/runs")
    assert "Error" not in output_of(NOTEBOOKS / name)


def test_first_look_says_what_a_known_run_holds(tmp_path: Path) -> None:
    shutil.copy(NOTEBOOKS / "first_look.ipynb", tmp_path)
    (tmp_path / "runs").mkdir()
    results = contest(tmp_path / "runs" / "first_look")
    said = output_of(tmp_path / "first_look.ipynb")
    assert "`paged` gives 4" in said
    assert results.cells[-1].cell.id.endswith("c16")
