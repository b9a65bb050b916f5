"""Workloads that lean on the engine's own answers, on a real engine behind its real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from enginebench.execute import run_plan
from enginebench.options import parse_options
from enginebench.plan import build_plan
from enginebench.progress import Silent
from enginebench.results import ResultSet
from enginebench.store import load

pytestmark = pytest.mark.slow
TinyModel = Callable[..., Path]
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}


def run(folder: Path, model: Path, *settings: str, **options: str) -> ResultSet:
    raw = {"engines": "quant", "model": str(model), "hardware": "cpu:1", **options}
    texts = {name: [text] for name, text in raw.items()}
    planned = build_plan(parse_options({**texts, "unchecked": ["true"], "set": list(settings)}))
    run_plan(planned.plan, folder, Silent(), command="test", settings=planned.settings)
    return load(folder)


def test_conversations_grow_by_real_answers_and_find_their_history_cached(
    tiny_gguf: TinyModel, tmp_path: Path
) -> None:
    results = run(
        tmp_path / "run",
        tiny_gguf("q4_1"),
        "conversations.turns=3",
        "conversations.think_s=0.01",
        "conversations.input_tokens=8",
        "conversations.output_tokens=8",
        workload="conversations",
        concurrency="1",
        requests="6",
    )
    rows = [row for row in results.cells[0].records.to_pylist() if row["phase"] == "measure"]
    assert [row["error"] for row in rows] == [None] * 6
    for first, second, third in (rows[:3], rows[3:]):
        prompts = [turn["prompt_tokens"] for turn in (first, second, third)]
        assert prompts == sorted(prompts) and prompts[0] + 8 < prompts[2]
        assert third["cached_prompt_tokens"] >= first["prompt_tokens"]


def test_answers_are_in_the_form_of_the_schema(tiny_gguf: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    results = run(
        tmp_path / "run",
        tiny_gguf("q4_1"),
        f"fixed.json_schema={tmp_path / 'schema.json'}",
        concurrency="2",
        requests="4",
        route="chat",
        input_tokens="16",
        output_tokens="200",
    )
    rows = results.cells[0].records.to_pylist()
    assert len(rows) >= 4 and [row["error"] for row in rows] == [None] * len(rows)
    finished = [row["text"] for row in rows if row["finish_reason"] == "stop"]
    assert finished and all(set(json.loads(text)) == {"yes"} for text in finished)
