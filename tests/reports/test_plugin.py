from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enginebench.plugins import metrics, reports
from enginebench.results import ResultSet
from enginebench.types import Metric, Report
from enginebench_reports.plugin import REPORTS, ServingMetrics

FORMATS = {
    "html": "report.html",
    "markdown": "report.md",
    "plots": "plots/throughput.png",
    "csv": "cells.csv",
    "json": "report.json",
}


def test_importing_the_plugin_is_cheap() -> None:
    heavy = {"numpy", "pandas", "pyarrow", "matplotlib", "jinja2"}
    code = (
        "import sys, enginebench_reports.plugin as plugin\n"
        "plugin.enginebench_metrics(), plugin.enginebench_reports()\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_and_reports_come_in_by_entry_point() -> None:
    assert any(isinstance(metric, ServingMetrics) for metric in metrics())
    assert FORMATS.keys() <= reports().keys()


def test_what_is_registered_keeps_the_contract(contest: ResultSet) -> None:
    metric = ServingMetrics()
    assert isinstance(metric, Metric)
    assert all(isinstance(report, Report) for report in REPORTS)
    names = [column.name for column in metric.columns]
    assert len(names) == len(set(names))
    figures = metric.compute(contest.cells[0])
    assert set(figures) == set(names)
    assert all(value is None or value == value for value in figures.values())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("which", ["contest", "troubled", "empty"])
def test_every_format_renders_every_run(
    name: str, which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Failed, pending, erroneous, wordless cells, and no cells at all: explained, no traceback."""
    results = ResultSet([]) if which == "empty" else request.getfixturevalue(which)
    written = reports()[name].render(results, tmp_path)
    assert all(path.stat().st_size for path in written)
    if which != "empty":
        assert written[0] == tmp_path / FORMATS[name]
