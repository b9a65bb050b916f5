"""What requests may ask of paged beyond tokens: logprobs, biases, grammars, embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_references import Reference, drain, greedy, tokens_of

from enginebench.types import OptionValue
from enginebench_openai.protocol import (
    GenerationRequest,
    Grammar,
    SamplingParams,
    TokenLogprob,
    TokenOutput,
)
from enginebench_paged.cache import block_bytes
from enginebench_paged.engine import PagedEngine

pytestmark = pytest.mark.usefixtures("on_the_cpu")

PLAIN: dict[str, OptionValue] = {"dtype": "f32", "block_size": 16, "max_batch": 4}
COUNT = 3


@pytest.fixture(scope="module")
def reference(references: Callable[[str], Reference]) -> Reference:
    return references("llama")


def build(reference: Reference, **options: OptionValue) -> PagedEngine:
    return PagedEngine(reference.model, {**PLAIN, "step_tokens": 24, **options})


def run(engine: PagedEngine, *requests: GenerationRequest) -> dict[str, list[TokenOutput]]:
    for request in requests:
        engine.add(request)
    return drain(engine)


def logprobs_of(outputs: Sequence[TokenOutput]) -> list[TokenLogprob]:
    return [one for output in outputs for one in output.logprobs]


def check(scores: Sequence[TokenLogprob], logits: torch.Tensor, tokens: Sequence[int]) -> None:
    """Each token's score is that of the row of `logits` before it."""
    expected = logits.log_softmax(-1)
    assert [score.token_id for score in scores] == list(tokens)
    for score, row in zip(scores, expected, strict=True):
        top = row.topk(COUNT)
        assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-4)
        assert [token for token, _ in score.top] == top.indices.tolist()
        assert [value for _, value in score.top] == pytest.approx(top.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"chunked_prefill": False, "schedule_ahead": False}])
def test_logprobs_are_those_of_transformers(reference, logits_of, options):
    prompt, output = reference.prompts[4], reference.outputs[4]
    request = replace(greedy("a", prompt), logprobs=COUNT, prompt_logprobs=COUNT)
    engine = build(reference, **options)
    found = run(engine, greedy("b", reference.prompts[5]), request, greedy("c", prompt))
    tokens = prompt + output
    logits = logits_of("llama", tokens, torch.float32)
    assert tokens_of(found["a"]) == output
    check(logprobs_of(found["a"]), logits[len(prompt) - 1 : -1], output)
    of_prompt = [one for out in found["a"] for one in out.prompt_logprobs]
    check(of_prompt, logits[: len(prompt) - 1], prompt[1:])
    assert tokens_of(found["b"]) == reference.outputs[5] and tokens_of(found["c"]) == output
    assert not logprobs_of(found["b"])


def test_each_gets_as_many_alternatives_as_it_asked_for(reference):
    counts = {"none": 0, "one": 1, "five": 5}
    requests = [
        replace(greedy(name, reference.prompts[1], 3), logprobs=count)
        for name, count in counts.items()
    ]
    found = run(build(reference), *requests)
    for name, count in counts.items():
        assert [len(one.top) for one in logprobs_of(found[name])] == [count] * 3


def test_a_prompt_is_scored_although_a_cache_holds_it(reference):
    engine, prompt = build(reference), reference.prompts[0]
    run(engine, greedy("a", prompt))
    found = run(engine, replace(greedy("b", prompt), prompt_logprobs=0))
    assert found["b"][-1].cached_prompt_tokens == 0
    assert sum(len(output.prompt_logprobs) for output in found["b"]) == len(prompt) - 1


@pytest.mark.parametrize("options", [{}, {"chunked_prefill": False}, {"schedule_ahead": False}])
def test_choices_of_one_prompt_compute_it_once(reference, options):
    engine, prompt = build(reference, **options), reference.prompts[5]
    found = run(engine, *(greedy(str(n), prompt) for n in range(3)))
    shared = (len(prompt) - 1) // 16 * 16
    assert [found[str(n)][-1].cached_prompt_tokens for n in range(3)] == [0, shared, shared]
    assert all(tokens_of(found[str(n)]) == reference.outputs[5] for n in range(3))


def test_a_preempted_prompt_is_scored_once(reference):
    room = 7.5 * block_bytes(build(reference).config, reference.model.config) / 1e9
    engine = build(reference, kv_memory_gb=room)
    requests = [
        replace(greedy(str(n), prompt, 60), prompt_logprobs=0)
        for n, prompt in enumerate(reference.prompts[:4])
    ]
    found = run(engine, *requests)
    assert (engine.stats().preemptions_total or 0) > 0
    for request in requests:
        scores = [one for out in found[request.request_id] for one in out.prompt_logprobs]
        assert [one.token_id for one in scores] == list(request.prompt[1:])


def test_a_bias_forces_and_forbids_tokens(reference):
    prompt, usual = reference.prompts[1], reference.outputs[1]
    forced = SamplingParams(temperature=0.0, logit_bias=((7, 100.0),))
    banned = SamplingParams(temperature=0.0, logit_bias=((usual[0], -100.0),))
    found = run(
        build(reference),
        GenerationRequest("forced", prompt, 3, forced),
        GenerationRequest("banned", prompt, 8, banned),
        greedy("usual", prompt),
    )
    assert tokens_of(found["forced"]) == (7, 7, 7)
    assert usual[0] not in tokens_of(found["banned"])
    assert tokens_of(found["usual"]) == usual


def test_a_bias_and_a_penalty_go_together(reference):
    prompt = reference.prompts[1]
    sampling = SamplingParams(temperature=0.0, logit_bias=((7, 100.0),), presence_penalty=2.0)
    found = run(build(reference), GenerationRequest("a", prompt, 3, sampling))
    assert tokens_of(found["a"]) == (7, 7, 7)


@pytest.mark.parametrize("schedule_ahead", [True, False])
def test_no_end_before_min_tokens(reference, schedule_ahead):
    prompt, usual = reference.prompts[1], reference.outputs[1]
    ends = frozenset({usual[0]})
    request = replace(greedy("a", prompt, 12), stop_token_ids=ends)
    engine = build(reference, schedule_ahead=schedule_ahead)
    found = run(engine, request, replace(request, request_id="b", min_tokens=5))
    assert tokens_of(found["a"]) == ()
    assert len(tokens_of(found["b"])) >= 5
    assert usual[0] not in tokens_of(found["b"])


@pytest.mark.parametrize("schedule_ahead", [True, False])
def test_a_grammar_holds_beside_free_requests(reference, schedule_ahead):
    tokenizer = reference.model.tokenizer
    grammar = Grammar("regex", "(yes|no){3}")
    drawn = GenerationRequest(
        "drawn", reference.prompts[2], 20, SamplingParams(seed=3), grammar=grammar
    )
    engine = build(reference, schedule_ahead=schedule_ahead)
    found = run(
        engine,
        greedy("free", reference.prompts[3]),
        replace(drawn, stop_token_ids=tokenizer.eos_ids),
        replace(drawn, request_id="again"),
        greedy("other", reference.prompts[4]),
    )
    said = tokenizer.decode(tokens_of(found["drawn"]))
    assert said.replace("yes", "no") == "nonono"
    assert tokens_of(found["again"]) == tokens_of(found["drawn"])
    assert found["drawn"][-1].finish_reason == found["again"][-1].finish_reason == "stop"
    assert tokens_of(found["free"]) == reference.outputs[3]
    assert tokens_of(found["other"]) == reference.outputs[4]


def test_a_grammar_that_cannot_be_compiled_is_refused(reference):
    engine = build(reference)
    request = replace(greedy("a", (5,)), grammar=Grammar("regex", "(("))
    with pytest.raises(ValueError, match="cannot be compiled"):
        engine.add(request)
    assert not engine.has_work()


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_an_embedding_is_the_pooled_last_hidden_state(reference, pooling):
    transformers = pytest.importorskip("transformers")
    net = transformers.AutoModel.from_pretrained(reference.model.info.name, dtype=torch.float32)
    prompts = reference.prompts[4:6]
    engine = build(reference)
    asked = [
        GenerationRequest(str(n), prompt, 0, pooling=pooling) for n, prompt in enumerate(prompts)
    ]
    found = run(engine, greedy("free", reference.prompts[3]), *asked)
    assert tokens_of(found["free"]) == reference.outputs[3]
    for request in asked:
        with torch.inference_mode():
            hidden = net(torch.tensor([request.prompt])).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == "mean" else hidden[-1]
        (output,) = found[request.request_id]
        assert output.finish_reason == "stop" and output.token_ids == ()
        assert output.embedding is not None
        assert math.hypot(*output.embedding) == pytest.approx(1)
        unit = (expected / expected.norm()).numpy()
        assert np.allclose(output.embedding, unit, atol=1e-4)
