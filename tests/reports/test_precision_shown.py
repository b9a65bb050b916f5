"""Every format says in which types an engine computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from simulated import Speed, cell, save, serve

from enginebench.results import ResultSet
from enginebench.types import Numerics
from enginebench_reports import html, json_document, markdown

SAID = "q4_1 weights, int8 products, f16 KV cache"


@pytest.fixture
def results(tmp_path: Path) -> ResultSet:
    data = serve(Speed(50, 10), 1, requests=12)
    known = replace(data, status=replace(data.status, numerics=Numerics("q4_1", "int8", "f16")))
    return save(tmp_path / "run", [(cell(0, "quant", 1), known), (cell(1, "url", 1), data)])


def test_numerics_read_as_a_phrase() -> None:
    assert str(Numerics("q4_1", "int8", "f16")) == SAID
    assert str(Numerics("bf16")) == "bf16 weights"
    assert str(Numerics()) == ""


def test_pandas_and_json(results: ResultSet, tmp_path: Path) -> None:
    column = results.to_pandas()["precision"]
    assert column[0] == SAID and column.isna().tolist() == [False, True]
    (path, *_) = json_document.render(results, tmp_path)
    told = json.loads(path.read_text())["cells"]
    assert [each["precision"] for each in told] == [SAID, None]


def test_page_and_markdown(results: ResultSet, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert SAID in html.render(results, tmp_path / "out")[0].read_text()
    said = markdown.render(results, tmp_path / "out")[0].read_text()
    assert f"Computed in: quant: {SAID}." in said
