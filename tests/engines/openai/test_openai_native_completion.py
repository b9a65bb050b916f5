"""llama-server's /completion: its fields, its defaults, its answers and its streams."""

from __future__ import annotations

import json

import pytest
from openai_fakes import CONTEXT, EOS, ScriptedEngine, http_post, serving, spell

from enginebench_openai.protocol import Feature


class AllRoundEngine(ScriptedEngine):
    features = frozenset(Feature)
    slots = 1


@pytest.fixture(scope="module")
def engine():
    return AllRoundEngine()


@pytest.fixture(scope="module")
def server(engine):
    with serving(engine) as running:
        yield running


@pytest.fixture
def ask(server):
    def asked(**body: object):
        return http_post(f"{server.url}/completion", json={"prompt": "abc", **body})

    return asked


def replying(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, text: str, *rest) -> None:
    monkeypatch.setattr(engine, "reply", lambda request: [*spell(text), *rest])


def test_the_defaults_are_those_of_llama_server(ask, engine):
    assert ask(n_predict=2).status_code == 200
    sampling = engine.added[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.8, 40, 0.95)
    assert (sampling.min_p, sampling.seed, sampling.penalty_last_n) == (0.05, None, None)


def test_a_whole_answer_has_all_fields(ask):
    answer = ask(n_predict=4, return_tokens=True, seed=3).json()
    assert (answer["content"], answer["tokens"]) == ("abca", list(b"abca"))
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "limit", "")
    assert (answer["tokens_predicted"], answer["tokens_evaluated"]) == (4, 3)
    assert (answer["prompt"], answer["model"], answer["id_slot"]) == ("abc", "fake", 0)
    assert answer["truncated"] is answer["has_new_line"] is False
    assert answer["generation_settings"]["seed"] == 3
    timings = answer["timings"]
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (0, 3, 4)
    assert timings["prompt_ms"] > 0 and timings["predicted_per_second"] > 0


def test_without_a_limit_the_context_is_one(ask):
    answer = ask().json()
    assert answer["tokens_predicted"] == CONTEXT - 3 and answer["truncated"] is True
    assert ask(n_predict=10**6).json()["tokens_predicted"] == CONTEXT - 3


@pytest.mark.parametrize(
    ("text", "rest", "told"),
    [("so\nbe it", (), ("so\n", "word", "be")), ("so", ((EOS,),), ("so", "eos", ""))],
)
def test_how_it_ended_is_told(ask, engine, monkeypatch, text, rest, told):
    replying(engine, monkeypatch, text, *rest)
    answer = ask(stop=["zz", "be"]).json()
    assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == told
    assert answer["has_new_line"] is ("\n" in told[0])


def test_the_tokens_after_a_stop_string_are_not_told(ask, engine, monkeypatch):
    monkeypatch.setattr(engine, "reply", lambda request: [tuple(b"xENDyyy")])
    answer = ask(stop=["END"], return_tokens=True).json()
    assert (answer["content"], answer["tokens"]) == ("x", list(b"xEND"))


def test_a_stream_ends_with_the_whole_answer_and_no_done(ask):
    raw = ask(n_predict=5, stream=True, timings_per_token=True).text
    events = [json.loads(line.removeprefix("data: ")) for line in raw.split("\n\n") if line]
    assert "".join(event["content"] for event in events) == "abcab"
    assert [token for event in events for token in event["tokens"]] == list(b"abcab")
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert all("timings" in event for event in events)
    assert events[-1]["content"] == "" and events[-1]["stop_type"] == "limit"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", [b"ab"]),
        ([97, 98], [b"ab"]),
        ([97, "bc", 100], [b"abcd"]),
        (["ab", "c"], [b"ab", b"c"]),
        ([["a", 98], "c", [100]], [b"ab", b"c", b"d"]),
    ],
)
def test_a_prompt_is_text_token_ids_both_or_a_list_of_prompts(ask, engine, prompt, prompts):
    engine.added.clear()
    answer = ask(prompt=prompt, n_predict=1).json()
    assert [bytes(one.prompt) for one in engine.added] == prompts
    found = answer if isinstance(answer, list) else [answer]
    assert [one["index"] for one in found] == list(range(len(prompts)))


def test_nothing_is_generated_where_only_the_prompt_is_to_be_read(ask, engine):
    answer = ask(n_predict=0, return_tokens=True).json()
    assert (answer["content"], answer["tokens"], answer["tokens_predicted"]) == ("", [], 0)
    assert engine.added[-1].prompt == tuple(b"abc")


def test_its_names_reach_the_engine(ask, engine):
    given = {"repeat_penalty": 1.5, "logit_bias": [["ab", 2], [99, False]], "n_predict": 1}
    assert ask(**given).status_code == 200
    sampling = engine.added[-1].sampling
    assert (sampling.repetition_penalty, sampling.penalty_last_n) == (1.5, 64)
    assert sampling.logit_bias == ((97, 2.0), (98, 2.0), (99, -100.0))
    assert ask(repeat_penalty=1.5, repeat_last_n=-1, n_predict=1).status_code == 200
    assert engine.added[-1].sampling.penalty_last_n is None
    assert ask(repeat_penalty=1.5, repeat_last_n=0, n_predict=1).status_code == 200
    assert engine.added[-1].sampling.repetition_penalty == 1
    assert ask(logit_bias={"97": 1, "b": False}, n_cmpl=2, n_predict=1).json()[1]["index"] == 1
    assert engine.added[-1].sampling.logit_bias == ((97, 1.0), (98, -100.0))


def test_the_tokenizer_and_the_template_in_its_words(server):
    def post(path: str, **body: object) -> dict:
        return http_post(f"{server.url}/{path}", json=body).json()

    assert post("tokenize", content="ab")["tokens"] == [97, 98]
    found = post("tokenize", content="é", with_pieces=True)["tokens"]
    assert found == [{"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]
    assert post("tokenize", content="a", with_pieces=True)["tokens"] == [{"id": 97, "piece": "a"}]
    assert post("detokenize", tokens=[97, 98])["content"] == "ab"
    told = post("apply-template", messages=[{"role": "user", "content": "hi"}])
    assert told == {"prompt": "u:hi\na:"}
    assert "error" in post("tokenize", content="a", prompt="a")


def test_only_the_fields_that_were_wanted_come_back(ask):
    wanted = ["content", "generation_settings/n_predict", "absent", "timings/nothing/at/all"]
    assert ask(n_predict=1, response_fields=wanted).json() == {"content": "a", "n_predict": 1}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n_predict": -2}, "n_predict"),
        ({"n_probs": 21}, "n_probs"),
        ({"n_cmpl": 0}, "n_cmpl"),
        ({"id_slot": 1}, "id_slot"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"json_schema": {"type": 7}}, "json_schema"),
        ({"logit_bias": [[1, True]]}, "logit_bias"),
        ({"logit_bias": [[10**6, 1]]}, "logit_bias"),
        ({"samplers": ["top_k"]}, "samplers"),
        ({"cache_prompt": False}, "cache_prompt"),
        ({"post_sampling_probs": True}, "post_sampling_probs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, [2]]}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n_keep": 5}, "n_keep"),
        ({"model": "other"}, "model"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(ask, body, param):
    answer = ask(**body)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert error["param"] == param and param in error["message"]


def test_the_values_that_change_nothing_are_taken(ask):
    neutral = {"cache_prompt": True, "n_keep": 0, "lora": [], "min_keep": 0, "t_max_predict_ms": 0}
    assert ask(**neutral, n_predict=1).status_code == 200
