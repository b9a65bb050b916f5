"""What `bench perplexity --into` kept stands in the report of the Run, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulated import Speed, cell, save, serve

from enginebench.quality import Quality, write_quality
from enginebench.store import load
from enginebench_reports import html, json_document, markdown
from enginebench_reports.summary import Summary

FOUND = Quality("<small>", "text.md", "quant on cpu", 512, 1000, 22.0, 0.5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save(tmp_path / "run", [(cell(0, "quant", 1), serve(Speed(50, 10), 1, requests=12))])
    return tmp_path / "run"


def test_a_run_without_it_has_no_such_section(run: Path) -> None:
    summary = Summary.of(load(run))
    assert 'id="quality"' not in html.page(summary)
    assert "## Quality" not in markdown.text(summary)


def test_it_is_shown(run: Path, tmp_path: Path) -> None:
    write_quality(run, FOUND)
    summary = Summary.of(load(run))
    assert "<code>&lt;small&gt;</code> predicts text.md with perplexity 22" in html.page(summary)
    assert f"- {FOUND.sentence}\n" in markdown.text(summary)
    (path, *_) = json_document.render(load(run), tmp_path)
    [told] = json.loads(path.read_text())["runs"][0]["quality"]
    assert (told["model"], told["perplexity"], told["distance"]) == ("<small>", 22.0, None)
