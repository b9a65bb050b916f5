"""Both generating routes, through the official client and by hand."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from openai_fakes import BOS, CONTEXT, EOS, ScriptedEngine, serving, spell

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def client(shared):
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def events(response: httpx.Response) -> list[dict]:
    """The JSON objects of a stream, which must end with [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def complete(http, **body) -> httpx.Response:
    return http.post("/v1/completions", json={"model": "fake", "prompt": "abc", **body})


def chat(http, text: str = "hi", **body) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    return http.post("/v1/chat/completions", json={"model": "fake", "messages": messages, **body})


def test_completion_with_the_official_client(client):
    done = client.completions.create(model="fake", prompt="abc", max_tokens=5)
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("abcab", "length")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (3, 5)
    assert done.usage.prompt_tokens_details.cached_tokens == 0
    assert done.object == "text_completion" and done.id.startswith("cmpl-")


def test_streamed_completion_with_the_official_client(client):
    stream = client.completions.create(
        model="fake",
        prompt="abc",
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "abcab"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_with_the_official_client(client):
    done = client.chat.completions.create(
        model="fake",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        ],
        max_completion_tokens=20,
    )
    message = done.choices[0].message
    assert (message.role, message.content) == ("assistant", "s:be brief\nu:hi\na:s:")
    assert done.usage.prompt_tokens == 18


def test_streamed_chat_with_the_official_client(client):
    stream = client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], max_tokens=4, stream=True
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "u:hi"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_errors_reach_the_official_client_as_its_own(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="other", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt="a", top_p=2)
    assert caught.value.param == "top_p"


def test_models_with_the_official_client(client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").max_model_len == CONTEXT
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/one")


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["aba"]),
        ([97, 98], ["aba"]),
        (["ab", "c"], ["aba", "ccc"]),
        ([[97, 98], [99]], ["aba", "ccc"]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_every_form_of_prompt(http, prompt, texts, stream):
    answer = complete(http, prompt=prompt, max_tokens=3, stream=stream)
    got = [""] * len(texts)
    for event in events(answer) if stream else [answer.json()]:
        for choice in event["choices"]:
            got[choice["index"]] += choice["text"]
    assert got == texts


def test_usage_of_several_prompts_is_their_sum(http):
    usage = complete(http, prompt=["ab", "c"], max_tokens=3).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 6, 9)


def test_continuous_usage_counts_tokens_not_chunks(http):
    options = {"continuous_usage_stats": True, "include_usage": True}
    got = events(complete(http, prompt="é", max_tokens=6, stream=True, stream_options=options))
    assert "".join(event["choices"][0]["text"] for event in got[:-1]) == "ééé"
    counts = [event["usage"]["completion_tokens"] for event in got]
    assert counts == sorted(counts) and counts[-1] == 6
    assert counts[0] in (2, 4, 6)  # half a character is no chunk, but it was a token


def test_without_options_no_chunk_carries_usage(http):
    assert all("usage" not in event for event in events(complete(http, stream=True)))


def test_with_include_usage_other_chunks_say_null(http):
    got = events(complete(http, stream=True, stream_options={"include_usage": True}))
    assert all(event["usage"] is None for event in got[:-1]) and got[-1]["usage"]


def test_text_that_json_must_escape_survives_a_stream(http):
    text = '"\\\n\t\x01</x> é漢🎉'
    got = events(complete(http, prompt=text, max_tokens=len(text.encode()), stream=True))
    assert "".join(event["choices"][0]["text"] for event in got) == text


def test_defaults_of_length(http):
    assert complete(http).json()["usage"]["completion_tokens"] == 16
    assert complete(http, prompt="x" * 60).json()["usage"]["completion_tokens"] == 4
    usage = chat(http).json()["usage"]
    assert usage["total_tokens"] == CONTEXT


def test_sampling_parameters_reach_the_engine(http, shared):
    complete(
        http,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-1,
        frequency_penalty=2,
        seed=-3,
    )
    sampling = shared.engine.added[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (-1, 2, -3)


@pytest.mark.parametrize("off", [0, -1, None])
def test_top_k_off(http, shared, off):
    complete(http, top_k=off)
    assert shared.engine.added[-1].sampling.top_k is None


@pytest.mark.parametrize("stream", [False, True])
def test_ignore_eos(http, stream):
    body = {"prompt": [97, EOS, 98], "max_tokens": 4, "stream": stream}
    ended = complete(http, **body)
    ignored = complete(http, **body, ignore_eos=True)
    choices = [
        (events(answer)[-1] if stream else answer.json())["choices"][0]
        for answer in (ended, ignored)
    ]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "length"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "shown"),
    [("lo w", "hel"), (["zzz", "lo w"], "hel"), (["o", "lo w", "hello x"], "hell")],
)
def test_stop_strings_cut_the_answer_and_free_the_engine(stream, stop, shown):
    engine = ScriptedEngine(lambda request: spell("hello world and so on"))
    with serving(engine) as server, httpx.Client(base_url=server.url, verify=False) as http:
        answer = complete(http, stop=stop, max_tokens=40, stream=stream)
        got = events(answer) if stream else [answer.json()]
        text = "".join(event["choices"][0]["text"] for event in got)
        assert text == shown
        assert got[-1]["choices"][0]["finish_reason"] == "stop"
        assert complete(http, max_tokens=1).status_code == 200
        assert engine.added[0].request_id in engine.aborted


def test_cached_tokens_are_told():
    engine = ScriptedEngine()
    engine.cached = 2
    with serving(engine) as server, httpx.Client(base_url=server.url, verify=False) as http:
        usage = complete(http).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}


@pytest.mark.parametrize(
    "field",
    [
        {"n": 1},
        {"best_of": 1},
        {"echo": False},
        {"logprobs": None},
        {"logit_bias": {}},
        {"suffix": ""},
        {"user": "me"},
        {"metadata": {"a": "b"}},
        {"store": False},
        {"service_tier": "auto"},
    ],
)
def test_harmless_fields_are_accepted(http, field):
    assert complete(http, **field).status_code == 200


def test_tokenize_and_detokenize(http):
    def tokens(**body):
        return http.post("/tokenize", json=body).json()

    assert tokens(prompt="hé") == {
        "tokens": list("hé".encode()),
        "count": 3,
        "max_model_len": CONTEXT,
    }
    assert tokens(prompt="h", add_special_tokens=True)["tokens"] == [BOS, ord("h")]
    chat_tokens = tokens(messages=[{"role": "user", "content": "q"}])["tokens"]
    assert bytes(chat_tokens) == b"u:q\na:"
    text = http.post("/detokenize", json={"tokens": [BOS, 104, 195, 169, EOS]}).json()
    assert text == {"prompt": "<s>hé</s>", "content": "<s>hé</s>"}
