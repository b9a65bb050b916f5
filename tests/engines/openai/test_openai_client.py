"""The official client over both real engines, on a tiny model: everything that it can ask for.

Both engines compute the same F32 model, so their greedy answers and logprobs are compared.
"""

from __future__ import annotations

import asyncio
import json
import math

import openai
import pytest
from openai_fakes import http_post

USER = [{"role": "user", "content": "What is the weather in Bergen?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"enum": [1, 2]}},
            "required": ["place", "days"],
            "additionalProperties": False,
            "$defs": {"place": {"enum": ["Bergen", "Oslo"]}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Alan"]}, "known": {"type": "boolean"}},
    "required": ["name", "known"],
    "additionalProperties": False,
}
PERSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}


@pytest.fixture(scope="module", params=["paged", "quant"])
def name(request: pytest.FixtureRequest) -> str:
    engine: str = request.param
    return engine


def test_both_engines_find_tokens_equally_likely(client):
    def ask(name: str) -> openai.types.completion_choice.Logprobs:
        answer = client.completions.create(
            model=name, prompt="Hello there", max_tokens=4, temperature=0, logprobs=2, echo=True
        )
        assert answer.choices[0].text.startswith("Hello there")
        found = answer.choices[0].logprobs
        assert found is not None
        return found

    ours, theirs = ask("paged"), ask("quant")
    assert ours.tokens == theirs.tokens and ours.text_offset == theirs.text_offset
    assert ours.token_logprobs is not None and ours.token_logprobs[0] is None
    assert theirs.token_logprobs is not None
    assert ours.token_logprobs[1:] == pytest.approx(theirs.token_logprobs[1:], abs=2e-3)


def test_an_echo_alone_generates_nothing(client, name):
    answer = client.completions.create(
        model=name, prompt=[[72, 105], [72]], max_tokens=0, echo=True, logprobs=1
    )
    assert [len(choice.logprobs.tokens) for choice in answer.choices] == [2, 1]
    assert answer.usage.completion_tokens == 0 and answer.usage.prompt_tokens == 3


def test_logprobs_of_a_stream_are_those_of_the_whole(client, name):
    asked = {"model": name, "prompt": "Hello", "max_tokens": 6, "seed": 3}
    asked |= {"logprobs": 1, "echo": True}
    whole = client.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    for field in ("tokens", "text_offset"):
        parts = [item for chunk in chunks for item in getattr(chunk.logprobs, field)]
        assert parts == getattr(whole.logprobs, field)


def test_chat_logprobs(client, name):
    answer = client.chat.completions.create(
        model=name, messages=USER, max_tokens=3, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 3
    for token in content:
        assert len(token.top_logprobs) == 3 and token.token == token.top_logprobs[0].token
        assert token.logprob == token.top_logprobs[0].logprob <= 0


def test_prompt_logprobs(client, name):
    answer = client.completions.create(
        model=name, prompt=[72, 105, 106], max_tokens=1, extra_body={"prompt_logprobs": 1}
    )
    found = answer.choices[0].prompt_logprobs
    assert found[0] is None and "105" in found[1] and "106" in found[2]


def test_several_answers_differ_and_share_their_prompt(client, name):
    asked = {"model": name, "prompt": "Once", "max_tokens": 8, "temperature": 2.0, "seed": 5}
    asked["extra_body"] = {"ignore_eos": True}
    answer = client.completions.create(**asked, n=3)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert answer.usage.prompt_tokens == 4 and answer.usage.completion_tokens == 24
    assert client.completions.create(**asked).choices[0].text == texts[0]
    asked["seed"] = 6
    assert client.completions.create(**asked).choices[0].text == texts[1]


def test_the_best_of_several_is_shown(client, name):
    asked = {"model": name, "prompt": "Once", "max_tokens": 4, "temperature": 2.0, "seed": 5}
    asked |= {"logprobs": 0, "extra_body": {"ignore_eos": True}}
    every = client.completions.create(**asked, n=4).choices
    best = max(every, key=lambda choice: sum(choice.logprobs.token_logprobs))
    answer = client.completions.create(**asked, best_of=4)
    (shown,) = answer.choices
    assert shown.text == best.text and shown.index == 0
    assert answer.usage.completion_tokens == 16


def test_streamed_choices_of_chats_are_told_apart(client, name):
    stream = client.chat.completions.create(
        model=name,
        messages=USER,
        n=2,
        max_tokens=5,
        seed=1,
        temperature=2.0,
        stream=True,
        stream_options={"include_usage": True},
    )
    reasons, usage = {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert set(reasons) == {0, 1} and set(reasons.values()) == {"length"}
    assert usage.completion_tokens == 10


def test_a_bias_and_a_least_length(client, name):
    answer = client.completions.create(
        model=name, prompt="x", max_tokens=5, temperature=0, logit_bias={"68": 100}
    )
    assert answer.choices[0].text == "AAAAA"
    ended = client.completions.create(
        model=name,
        prompt="x",
        max_tokens=9,
        temperature=0,
        logit_bias={"0": 100, "2": 100},
        extra_body={"min_tokens": 4},
    )
    assert ended.usage.completion_tokens >= 4


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output(client, name, stream):
    answer = client.chat.completions.create(
        model=name,
        messages=USER,
        max_tokens=90,
        seed=4,
        response_format=PERSON_FORMAT,
        stream=stream,
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        assert answer.choices[0].finish_reason == "stop"
        text = answer.choices[0].message.content
    found = json.loads(text)
    assert found["name"] in ("Ada", "Alan") and found["known"] in (True, False)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"structured_outputs": {"choice": ["a+b", "(c)"]}}, {"a+b", "(c)"}),
        ({"structured_outputs": {"regex": "ab?c"}}, {"ac", "abc"}),
        ({"grammar": 'root ::= "x" | "y"'}, {"x", "y"}),
        ({"grammar": 'start: "x" | "y"'}, {"x", "y"}),
    ],
)
def test_grammars(client, name, given, allowed):
    answer = client.completions.create(
        model=name, prompt="Say", max_tokens=20, n=2, seed=1, extra_body=given
    )
    assert {choice.text for choice in answer.choices} <= allowed
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "c"}}}},
         "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"grammar": "start: nowhere"}, "grammar"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"grammar": 'start: "a"', "response_format": {"type": "json_object"}}, "grammar"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 2}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"logit_bias": {"512": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(client, name, given, param):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model=name, prompt="x", extra_body=given)
    assert refusal.value.param == param


def test_a_tool_is_called(client, name):
    answer = client.chat.completions.create(
        model=name,
        messages=USER,
        max_tokens=300,
        seed=2,
        tools=[WEATHER, TIME],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["place"] in ("Bergen", "Oslo") and arguments["days"] in (1, 2)
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    after = client.chat.completions.create(
        model=name, messages=[*USER, choice.message, result], max_tokens=2, tools=[WEATHER]
    )
    assert after.usage.completion_tokens == 2


def test_a_streamed_call_comes_in_parts(client, name):
    stream = client.chat.completions.create(
        model=name,
        messages=USER,
        max_tokens=300,
        seed=2,
        tools=[WEATHER],
        stream=True,
        tool_choice="required",
        parallel_tool_calls=False,
    )
    names, arguments, reason = [], [], None
    for chunk in stream:
        (choice,) = chunk.choices
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or ():
            names += [call.function.name] if call.function.name else []
            arguments.append(call.function.arguments or "")
    assert names == ["weather"] and reason == "tool_calls"
    assert len(arguments) > 3 and json.loads("".join(arguments))["place"] in ("Bergen", "Oslo")


def test_the_template_gets_its_variables(client, name):
    def tokens(**more: object) -> int:
        answer = client.chat.completions.create(
            model=name, messages=USER, max_tokens=1, extra_body=more
        )
        return answer.usage.prompt_tokens

    assert tokens(chat_template_kwargs={"more": "12345"}) == tokens() + 5


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings(client, name, pooling):
    texts = ["Hello there", "x" * 40]
    asked = {"model": name, "input": texts, "extra_body": {"pooling": pooling}}
    answer = client.embeddings.create(**asked)
    vectors = [item.embedding for item in answer.data]
    assert [item.index for item in answer.data] == [0, 1] and answer.usage.prompt_tokens == 51
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-5) for vector in vectors)
    plain = client.embeddings.create(**asked, encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors[0], abs=1e-6)
    other = client.embeddings.create(**{**asked, "model": "paged" if name == "quant" else "quant"})
    assert other.data[0].embedding == pytest.approx(vectors[0], abs=2e-3)


def test_llama_servers_own_route_finds_the_same_tokens(both_engines):
    def ask(name: str) -> dict:
        body = {"prompt": [1, "Hello there"], "n_predict": 4, "n_probs": 2, "temperature": 0}
        asked = {**body, "model": name, "repeat_last_n": -1, "return_tokens": True}
        return http_post(f"{both_engines}/completion", json=asked).json()

    ours, theirs = ask("paged"), ask("quant")
    assert (ours["content"], ours["tokens"]) == (theirs["content"], theirs["tokens"])
    for one, other in zip(
        ours["completion_probabilities"], theirs["completion_probabilities"], strict=True
    ):
        assert one["id"] == one["top_logprobs"][0]["id"] == other["id"]
        assert one["logprob"] == pytest.approx(other["logprob"], abs=2e-3)
        assert len(one["top_logprobs"]) == 2 and bytes(one["bytes"]).decode("utf-8", "replace")


def test_penalties_look_no_further_back_than_asked(both_engines):
    def said(last_n: int) -> list[int]:
        asked = {"model": "quant", "prompt": "x", "n_predict": 12, "temperature": 0, "seed": 1}
        asked |= {"repeat_penalty": 1e9, "repeat_last_n": last_n, "return_tokens": True}
        asked |= {"ignore_eos": True, "logit_bias": [[token, 50] for token in (65, 66, 67)]}
        return http_post(f"{both_engines}/completion", json=asked).json()["tokens"]

    near, far = said(2), said(-1)
    assert set(near) == {65, 66, 67} and near[3:] == near[:-3]
    assert len(set(far)) == len(far)


def test_the_asynchronous_client(client, name):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none") as aclient:
            stream = await aclient.chat.completions.create(
                model=name, messages=USER, max_tokens=4, seed=1, stream=True
            )
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            asked = {"model": name, "messages": USER, "max_tokens": 4, "seed": 1}
            answers = await asyncio.gather(
                *(aclient.chat.completions.create(**asked) for _ in range(3))
            )
            return [streamed, *(answer.choices[0].message.content for answer in answers)]

    assert len(set(asyncio.run(ask()))) == 1
