"""The CSV report: what `ResultSet.to_pandas` gives, and whether each cell may be believed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from enginebench.results import ResultSet
from enginebench_reports.summary import Summary

__all__ = ["render"]


def render(results: ResultSet, folder: Path) -> Sequence[Path]:
    """The `csv` report: one row per cell; missing figures are empty."""
    summary = Summary.of(results)
    path = folder / "cells.csv"
    frame = summary.frame.assign(
        valid=[cell.is_valid for cell in summary.cells],
        flags=["; ".join(flag.reason for flag in cell.flags) for cell in summary.cells],
    )
    frame.to_csv(path, index=False)
    return [path]
