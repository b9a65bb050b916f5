"""Clients that others wrote, where they are installed: lm-eval and LangChain.

pip install "lm_eval[api]" langchain-openai
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.peer

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
GENERATED = """
task: tiny_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
QUESTIONS = [
    {"question": "Two and two are", "choices": [" four", " five"], "answer": 0},
    {"question": "The sky is", "choices": [" green", " blue"], "answer": 1},
]


@pytest.fixture(params=["paged", "quant"])
def name(request: pytest.FixtureRequest) -> str:
    engine: str = request.param
    return engine


def evaluated(url: str, name: str, folder: Path, tokenizer: Path, task: str) -> list:
    """The answers that lm-eval gets for every question of a task."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    data = folder / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    kind = task.split()[1]
    (folder / f"{kind}.yaml").write_text(task.format(data=data))
    found = simple_evaluate(
        model="local-completions",
        model_args={
            "model": name,
            "base_url": f"{url}/v1/completions",
            "tokenizer": str(tokenizer),
            "max_length": 512,
        },
        tasks=[kind],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    return [answer for one in found["samples"][kind] for answer in one["filtered_resps"]]


def test_lm_eval_finds_the_same_with_both_engines(both_engines, tmp_path, tiny_hf):
    pytest.importorskip("lm_eval")
    ours, theirs = (
        [
            float(likelihood)
            for likelihood, _ in evaluated(both_engines, name, tmp_path, tiny_hf(), TASK)
        ]
        for name in ("paged", "quant")
    )
    assert len(ours) == 4 and all(value < 0 for value in ours)
    assert ours == pytest.approx(theirs, abs=2e-2)


def test_lm_eval_generates_the_same_with_both_engines(both_engines, tmp_path, tiny_hf):
    pytest.importorskip("lm_eval")
    ours, theirs = (
        evaluated(both_engines, name, tmp_path, tiny_hf(), GENERATED) for name in ("paged", "quant")
    )
    assert len(ours) == 2 and any(ours) and ours == theirs


def test_langchain_chats_streams_and_calls_tools(both_engines, name):
    langchain = pytest.importorskip("langchain_openai")
    pydantic = pytest.importorskip("pydantic")

    class Weather(pydantic.BaseModel):
        """The weather of a place."""

        place: str = pydantic.Field(max_length=12)
        days: int = pydantic.Field(ge=1, le=3)

    chat = langchain.ChatOpenAI(
        base_url=f"{both_engines}/v1", api_key="none", model=name, seed=1, max_tokens=350
    )
    whole = chat.invoke("Hello", max_tokens=4).content
    assert "".join(chunk.content for chunk in chat.stream("Hello", max_tokens=4)) == whole
    (call,) = chat.bind_tools([Weather], tool_choice="Weather").invoke("Bergen?").tool_calls
    assert call["name"] == "Weather" and 1 <= call["args"]["days"] <= 3
    found = chat.with_structured_output(Weather, method="json_schema").invoke("Bergen?")
    assert isinstance(found, Weather)
