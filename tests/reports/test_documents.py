"""Markdown, CSV, JSON: what they hold, and that nothing from a Run breaks out of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from enginebench.results import ResultSet
from enginebench_reports import csv_table, json_document, markdown
from enginebench_reports.summary import Summary


def read_json(results: ResultSet, folder: Path) -> dict[str, Any]:
    path, schema = json_document.render(results, folder)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    jsonschema.validate(found, json.loads(schema.read_text()))
    return found


def test_json_holds_figures_flags_and_definitions(contest: ResultSet, tmp_path: Path) -> None:
    found = read_json(contest, tmp_path)
    frame = contest.to_pandas()
    assert found["version"] == 1
    assert found["headline"].startswith("`paged` gives")
    assert len(found["cells"]) == 6
    first = found["cells"][0]
    assert first["figures"]["tpot_s_p50"] == pytest.approx(frame.loc[0, "tpot_s_p50"])
    assert first["figures"]["ttft_s_p99"] is None
    assert set(first["figures"]) == {metric["name"] for metric in found["metrics"]}
    assert found["runs"][0]["machine"]["cpu"]["model"] == "Example 9000"


def test_json_says_what_went_wrong(troubled: ResultSet, tmp_path: Path) -> None:
    cells = {each["engine"]: each for each in read_json(troubled, tmp_path)["cells"]}
    assert cells["quant"]["valid"] is True
    assert cells["paged"]["flags"][0]["name"] == "failed"
    assert cells["vllm"]["state"] == "pending"


def test_json_of_nothing(tmp_path: Path) -> None:
    assert read_json(ResultSet([]), tmp_path)["cells"] == []


def test_the_json_schema_describes_every_name(contest: ResultSet, tmp_path: Path) -> None:
    found = read_json(contest, tmp_path)
    schema = json.loads((tmp_path / json_document.SCHEMA).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(found) == set(schema["properties"])
    for name in ("runs", "cells", "metrics", "answers"):
        assert set(found[name][0]) == set(schema["properties"][name]["items"]["properties"]), name


def test_csv_is_the_frame_and_a_verdict(troubled: ResultSet, tmp_path: Path) -> None:
    (path,) = csv_table.render(troubled, tmp_path)
    found = pd.read_csv(path)
    frame = troubled.to_pandas()
    assert list(found.columns) == [*frame.columns, "valid", "flags"]
    assert found["valid"].tolist() == [True, False, False, False, True, False]
    assert found.loc[0, "e2e_s_p50"] == pytest.approx(frame.loc[0, "e2e_s_p50"])
    assert math.isnan(found.loc[1, "e2e_s_p50"])


def test_markdown_opens_with_the_answer_and_shows_plots(contest: ResultSet, tmp_path: Path) -> None:
    main, *plots = markdown.render(contest, tmp_path)
    text = main.read_text()
    assert text.startswith("# `paged` gives ")
    for plot in plots:
        assert f"({plot.relative_to(tmp_path)})" in text
    assert "bench run --engines paged,quant" in text


def test_markdown_tables_have_as_many_cells_in_every_row(
    contest: ResultSet, troubled: ResultSet
) -> None:
    for results in (contest, troubled):
        lines = markdown.text(Summary.of(results)).splitlines()
        rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
        assert len(rows) == len(results) + 2
        assert len({row.count("|") for row in rows}) == 1


def test_markdown_of_errors_stays_markdown(troubled: ResultSet) -> None:
    text = markdown.text(Summary.of(troubled))
    assert text.count("```") % 2 == 0
    assert "not run yet" in text
    assert "3 of 3 requests failed: connection reset" in text


def test_markdown_of_nothing(tmp_path: Path) -> None:
    text = markdown.render(ResultSet([]), tmp_path)[0].read_text()
    assert text == "# This Run holds no cells, so there is nothing to say.\n"
