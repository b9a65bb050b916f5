"""Every format renders whatever a Run holds: old, empty, failed, half done, with NaN inside."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from simulated import Speed, cell, failed, save, serve

import enginebench
from enginebench.plugins import reports
from enginebench.results import ResultSet
from enginebench_reports.html import page
from enginebench_reports.summary import Summary

OLD_RUN = Path(__file__).parent / "runs" / "schema_1"
"""As the first release wrote it; its third cell was never measured."""


@pytest.fixture(scope="module")
def old_run() -> ResultSet:
    return enginebench.load(OLD_RUN)


@pytest.fixture(scope="module")
def hard_runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ResultSet]:
    folder = tmp_path_factory.mktemp("hard")
    data = serve(Speed(5, 5), 1, requests=12)
    runs = {
        "empty": save(folder / "empty", []),
        "failed": save(folder / "failed", [(cell(0, "paged", 1), failed())]),
        "pending": save(folder / "pending", [(cell(0, "paged", 1), None)]),
        "half": save(folder / "half", [(cell(0, "a", 1), data), (cell(1, "b", 1), None)]),
        "nothing at all": ResultSet([]),
    }
    _put_nan_into(runs["half"].cells[0].folder / "telemetry.parquet")
    return runs


def _put_nan_into(path: Path) -> None:
    table = pq.read_table(path)
    for name in ("cpu_percent", "client_cpu_percent", "gpu_energy_j", "gpu_power_w"):
        place = table.column_names.index(name)
        values = pa.array([math.nan, math.inf] + [math.nan] * (table.num_rows - 2))
        table = table.set_column(place, name, values)
    pq.write_table(table, path)


@pytest.mark.parametrize("name", ["markdown", "csv", "json"])
def test_every_format_renders_every_run(
    name: str, hard_runs: Mapping[str, ResultSet], tmp_path: Path
) -> None:
    for title, results in hard_runs.items():
        folder = tmp_path / title
        folder.mkdir()
        written = reports()[name].render(results, folder)
        assert all(path.exists() for path in written), title
        assert "nan" not in written[0].read_text().lower(), title


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("empty", "This Run holds no cells"),
        ("nothing at all", "This Run holds no cells"),
        ("failed", "paged died while it started"),
        ("pending", "not run yet"),
        ("half", "1 of 2 cells"),
    ],
)
def test_the_page_says_why(title: str, said: str, hard_runs: Mapping[str, ResultSet]) -> None:
    text = page(Summary.of(hard_runs[title]))
    assert said in text
    assert not re.search(r">\s*(nan|inf|None)\b", text)
    if title in ("failed", "pending"):
        assert "nothing to draw" in text


def test_a_run_of_the_first_release_loads(old_run: ResultSet) -> None:
    assert [each.status.state for each in old_run] == ["ok", "ok", "pending"]
    frame = old_run.to_pandas().set_index("engine")
    assert frame.loc["echo", "output_tokens_per_s"] == pytest.approx(199, rel=0.01)
    assert frame.loc["paged", "tpot_s_p50"] == pytest.approx(0.0408, rel=0.01)
    assert list(frame["is_null"]) == [True, False, False]
    assert "`paged` gives 22.7 output tokens/s" in Summary.of(old_run).headline


def test_its_columns_are_all_there_today(old_run: ResultSet) -> None:
    from enginebench.schemas import records_schema, requests_schema, telemetry_schema

    first = old_run.cells[0]
    assert first.records.schema == records_schema()
    assert first.requests.schema == requests_schema()
    assert first.telemetry.schema == telemetry_schema()


def test_a_newer_schema_is_refused_with_the_fix(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD_RUN, tmp_path / "newer")
    head = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(head | {"schema_version": 99}))
    with pytest.raises(enginebench.store.StoreError, match="pip install --upgrade"):
        enginebench.load(folder)
