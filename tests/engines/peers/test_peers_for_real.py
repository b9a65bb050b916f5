"""llama.cpp and transformers, started for real: planned lengths, true counts, equal answers.

Computed in float32 from float32 weights, greedy decoding leaves an engine no choice, so that all
must say the same.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
from peer_client import ask, complete

from enginebench import plugins
from enginebench.execute import run_plan
from enginebench.options import parse_options
from enginebench.plan import build_plan
from enginebench.progress import Silent
from enginebench.results import ResultSet
from enginebench.run_settings import RunSettings
from enginebench.server import Server
from enginebench.store import load

pytestmark = [pytest.mark.peer, pytest.mark.slow]
PEERS = ("llamacpp", "transformers", "transformers-cb")
PROMPT = [40, 50, 60, 70, 80, 90, 100, 111]
Serve = Callable[..., Server]
TinyModel = Callable[..., Path]


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """What each engine said to PROMPT, as the tests of this module come across it."""
    return {}


@pytest.mark.parametrize("name", [*PEERS, "quant", "paged"])
def test_all_engines_say_the_same(
    serve: Serve, tiny_gguf: TinyModel, answers: dict[str, str], name: str
) -> None:
    answer = complete(serve(name, tiny_gguf("f32")), PROMPT, 24)
    assert answer["usage"]["prompt_tokens"] == len(PROMPT)
    assert answer["usage"]["completion_tokens"] == 24
    assert answer["choices"][0]["finish_reason"] == "length"
    answers[name] = answer["choices"][0]["text"]
    assert set(answers.values()) == {answers[name]}


@pytest.mark.parametrize("name", PEERS)
def test_a_run_has_the_planned_lengths_and_real_counts(
    tiny_gguf: TinyModel, tmp_path: Path, name: str
) -> None:
    results = run(tmp_path / "run", tiny_gguf("q4_1"), name)
    assert [cell.status.state for cell in results.cells] == ["ok", "ok"]
    rows = [row for cell in results.cells for row in cell.records.to_pylist()]
    assert len(rows) >= 8
    for row in rows:
        assert row["error"] is None
        assert (row["prompt_tokens"], row["completion_tokens"]) == (24, 12)
    said = [row for row in rows if row["text"]]  # a random model may say nothing that has a text
    assert said
    for row in said:
        assert sum(row["chunk_tokens"]) == 12
        assert row["token_count_source"] in ("usage", "chunk_usage")


def run(folder: Path, model: Path, engine: str) -> ResultSet:
    state = plugins.engines()[engine].availability()
    if not state.ok:
        pytest.skip(f"{engine}: {state.reason}; {state.fix}")
    lengths = {"input_tokens": ["24"], "output_tokens": ["12"], "requests": ["4"]}
    where = {"engines": [engine], "model": [str(model)], "hardware": ["cpu:1"]}
    planned = build_plan(parse_options({**where, **lengths, "concurrency": ["1,3"]}))
    settings = RunSettings(reuse_servers=True)
    run_plan(planned.plan, folder, Silent(), command="test", settings=settings)
    return load(folder)


def test_transformers_keeps_to_a_stop_string(serve: Serve, tiny_gguf: TinyModel) -> None:
    server = serve("transformers", tiny_gguf("f32"))
    text = complete(server, PROMPT, 16)["choices"][0]["text"]
    stopped = complete(server, PROMPT, 16, stop=[text[4]])["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.index(text[4])], "stop")
    assert complete(server, PROMPT, 16)["choices"][0]["text"] == text


def test_transformers_draws_by_the_seed(serve: Serve, tiny_gguf: TinyModel) -> None:
    server = serve("transformers", tiny_gguf("f32"))
    drawn = [complete(server, PROMPT, 8, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    texts = [each["choices"][0]["text"] for each in drawn]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("transformers", {"presence_penalty": 1.0}, "no presence_penalty"),
        ("transformers-cb", {"temperature": 1.0}, "decodes greedily"),
    ],
)
def test_what_it_cannot_do_is_refused(
    serve: Serve, tiny_gguf: TinyModel, name: str, more: dict[str, float], message: str
) -> None:
    server = serve(name, tiny_gguf("f32"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        complete(server, PROMPT, 4, **more)
    with refused.value:
        assert refused.value.code == 400
        assert message in refused.value.read().decode()
    assert complete(server, PROMPT, 4)["usage"]["completion_tokens"] == 4


def test_transformers_says_its_precision(serve: Serve, tiny_gguf: TinyModel) -> None:
    log = serve("transformers", tiny_gguf("f32")).log.read_text()
    assert "(f32) computed in float32 on cpu, attention sdpa, 1 threads" in log


def test_llamacpp_has_metrics_and_says_its_model(serve: Serve, tiny_gguf: TinyModel) -> None:
    path = tiny_gguf("q4_1")
    server = serve("llamacpp", path, parallel=2, context=256)
    complete(server, PROMPT, 4)
    assert "llamacpp:tokens_predicted_total 4" in ask(server, "/metrics")
    assert [each["id"] for each in ask(server, "/v1/models")["data"]] == [str(path)]
    assert ask(server, "/props")["total_slots"] == 2
