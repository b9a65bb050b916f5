"""Opens Run folders as a ResultSet: the reading end of what `bench run` writes.

    results = load("runs/20260101-120000-smollm2-135m")
    results = load("runs")                      # every Run in there
    results = load(["runs/a", "runs/b"])

Only small JSON files are read at first; records and telemetry when a cell is asked for them. The
writing end stands in `run_folder` and `cell_folder`; `save_run` (here too) writes a whole Run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from enginebench.answers import Answers
from enginebench.cell_folder import CellFolder
from enginebench.errors import StoreError
from enginebench.results import CellResult, ResultSet
from enginebench.run_folder import CellData, RunFolder, save_run
from enginebench.types import NullEngine

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CellData",
    "load",
    "read_answers",
    "read_records",
    "read_requests",
    "read_telemetry",
    "save_run",
]

PathLike = str | os.PathLike[str]


def load(*paths: PathLike | Sequence[PathLike]) -> ResultSet:
    """Open Run folders, or folders that hold Run folders; cells come in the order they were run.

    Cells that were not measured yet have the state `pending`. Raises StoreError for what is no Run
    folder, is damaged, or was written by a newer version.
    """
    folders = [run for path in _flat(paths) for run in _run_folders(Path(path))]
    if not folders:
        raise StoreError("no Run folder was named; give at least one, as `bench run` prints it")
    return ResultSet([cell for folder in folders for cell in _cells(RunFolder.open(folder))])


def read_records(folder: Path) -> pa.Table:
    """The records of the cell in `folder`: one row per request, columns as RequestRecord."""
    return CellFolder(folder).records()


def read_requests(folder: Path) -> pa.Table:
    """The requests of the cell in `folder`, as they were scheduled."""
    return CellFolder(folder).requests()


def read_answers(folder: Path) -> Answers | None:
    """What the engine of the cell in `folder` answered; None where it was not asked."""
    return CellFolder(folder).answers()


def read_telemetry(folder: Path) -> pa.Table:
    """The telemetry of the cell in `folder`: one row per sample."""
    return CellFolder(folder).telemetry()


def _flat(paths: Iterable[PathLike | Sequence[PathLike]]) -> Iterator[PathLike]:
    for path in paths:
        if isinstance(path, str | os.PathLike):
            yield path
        else:
            yield from path


def _run_folders(path: Path) -> Sequence[Path]:
    """`path` itself if it is a Run, else the Runs directly inside, by name."""
    if not path.is_dir():
        raise StoreError(f"{path} is no folder; give a Run folder, as `bench run` prints it")
    if (path / "run.json").exists():
        return [path]
    inside = sorted(each.parent for each in path.glob("*/run.json"))
    if not inside:
        raise StoreError(
            f"{path} is no Run folder and holds none: there is no run.json; give the folder that "
            "`bench run` named"
        )
    return inside


def _cells(run: RunFolder) -> Iterator[CellResult]:
    info = run.info
    if run.plan.null_engines is None:
        info = replace(info, null_engines=_installed_null_engines())
    for cell in run.plan.cells:
        folder = run.cell(cell)
        model = run.plan.models[cell.spec.model]
        yield CellResult(cell, folder.status(), model, info, folder.path)


def _installed_null_engines() -> frozenset[str]:
    """What plugins say today, for Runs from before it was recorded."""
    from enginebench.plugins import engines

    return frozenset(name for name, each in engines().items() if isinstance(each, NullEngine))
