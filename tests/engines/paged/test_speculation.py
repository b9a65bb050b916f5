"""Speculative decoding: the tokens are those without it, in fewer steps, whatever else happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tiny_references import Reference, continue_greedily, drain, greedy, knowing, tokens_of

from enginebench.types import OptionValue
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.cache import block_bytes
from enginebench_paged.engine import PagedEngine

pytestmark = pytest.mark.usefixtures("on_the_cpu")

References = Callable[[str], Reference]
PLAIN: dict[str, OptionValue] = {"dtype": "f32", "max_batch": 8, "step_tokens": 64}
GUESSING: dict[str, OptionValue] = {**PLAIN, "speculative": "ngram"}
LONG = 40  # tokens: long enough for a tiny model to repeat itself


def requests(reference: Reference, **changes: object) -> list[GenerationRequest]:
    """Prompts that repeat themselves, and others."""
    made = [
        greedy(str(n), prompt[-40:] * 2, LONG) for n, prompt in enumerate(reference.prompts[1:6])
    ]
    return [replace(one, **changes) for one in made]  # type: ignore[arg-type]


def run(engine: PagedEngine, asked: list[GenerationRequest]) -> list[tuple[int, ...]]:
    for request in asked:
        engine.add(request)
    outputs = drain(engine)
    assert engine.stats().kv_blocks_used == 0
    return [tokens_of(outputs[request.request_id]) for request in asked]


def steps_of(engine: PagedEngine, request: GenerationRequest) -> int:
    engine.add(request)
    return sum(1 for _ in iter(lambda: engine.has_work() and engine.step(), False))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {"speculative_tokens": 7, "block_size": 32}),
        ("llama", {"max_batch": 2, "prefix_cache": False}),
        ("llama", {"chunked_prefill": False, "max_batch": 1}),
        ("qwen2moe", {"deterministic": True, "step_tokens": 9}),
        ("gemma3", {}),
    ],
    ids=str,
)
def test_tokens_are_those_without_it(
    references: References, architecture: str, options: dict[str, OptionValue]
) -> None:
    reference = references(architecture)
    asked = requests(reference)
    plain = {name: value for name, value in options.items() if name != "speculative_tokens"}
    expected = run(PagedEngine(reference.model, {**PLAIN, **plain}), asked)
    engine = PagedEngine(reference.model, {**GUESSING, **options})
    assert run(engine, asked) == expected
    texts = [one.prompt + tokens for one, tokens in zip(asked, expected, strict=True)]
    with knowing(texts):  # what was computed before is in the cache
        assert run(engine, asked) == expected
    stats = engine.stats()
    assert stats.draft_tokens_total and stats.accepted_draft_tokens_total is not None
    assert 0 < stats.accepted_draft_tokens_total < stats.draft_tokens_total


def test_right_guesses_save_steps(references: References) -> None:
    reference = references("llama")
    plain, guessing = (PagedEngine(reference.model, options) for options in (PLAIN, GUESSING))
    request = greedy("it", reference.prompts[1], 30)
    with knowing([request.prompt + run(plain, [request])[0]]):
        steps = steps_of(guessing, request)
    saved = guessing.stats().accepted_draft_tokens_total or 0
    assert saved > 10 and steps == steps_of(plain, request) - saved


def test_preemption_and_aborts(references: References) -> None:
    reference = references("llama")
    asked = requests(reference)
    expected = run(PagedEngine(reference.model, PLAIN), asked)
    engine = PagedEngine(reference.model, GUESSING)
    room = 8.5 * block_bytes(engine.config, reference.model.config) / 1e9
    engine = PagedEngine(reference.model, {**GUESSING, "kv_memory_gb": room})
    with knowing([one.prompt + tokens for one, tokens in zip(asked, expected, strict=True)]):
        for request in asked:
            engine.add(request)
            engine.add(replace(request, request_id=f"{request.request_id} left"))
        outputs = drain(engine, steps=9)
        for request in asked:
            engine.abort(f"{request.request_id} left")
        drain(engine, into=outputs)
    assert engine.stats().accepted_draft_tokens_total
    assert engine.stats().preemptions_total
    assert engine.stats().kv_blocks_used == 0
    assert [tokens_of(outputs[request.request_id]) for request in asked] == expected


def test_drawn_tokens_and_stop_tokens_too(references: References) -> None:
    """Noise is a matter of seed and position: guesses do not change what is drawn."""
    reference = references("llama")
    heat = SamplingParams(temperature=0.4, top_p=0.9, seed=11)
    for changes in ({"sampling": heat}, {"stop_token_ids": frozenset(range(0, 512, 16))}):
        asked = requests(reference, **changes)
        expected = run(PagedEngine(reference.model, PLAIN), asked)
        engine = PagedEngine(reference.model, GUESSING)
        with knowing([one.prompt + tokens for one, tokens in zip(asked, expected, strict=True)]):
            assert run(engine, asked) == expected
        assert "stop_token_ids" in changes or engine.stats().accepted_draft_tokens_total


def test_logprobs_come_with_each_token(references: References) -> None:
    reference = references("llama")
    scored = []
    for options in (PLAIN, GUESSING):
        engine = PagedEngine(reference.model, options)
        asked = requests(reference, logprobs=2)
        for request in asked:
            engine.add(request)
        outputs = drain(engine)
        for request in asked:
            assert all(
                len(out.logprobs) == len(out.token_ids) for out in outputs[request.request_id]
            )
        scored.append(
            [
                score
                for request in asked
                for out in outputs[request.request_id]
                for score in out.logprobs
            ]
        )
    usual, guessed = scored
    assert [score.token_id for score in usual] == [score.token_id for score in guessed]
    values = [[score.logprob for score in scores] for scores in scored]
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_who_says_what_may_come_is_not_guessed_for(references: References) -> None:
    reference = references("llama")
    for sampling in (
        SamplingParams(temperature=0.0, repetition_penalty=1.2),
        SamplingParams(temperature=0.0, logit_bias=((7, 1.0),)),
    ):
        asked = requests(reference, sampling=sampling)
        expected = run(PagedEngine(reference.model, PLAIN), asked)
        engine = PagedEngine(reference.model, GUESSING)
        assert run(engine, asked) == expected
        assert engine.stats().draft_tokens_total == 0


def test_the_tokens_are_also_those_of_transformers(references: References) -> None:
    transformers = pytest.importorskip("transformers")
    reference = references("llama")
    net = transformers.AutoModelForCausalLM.from_pretrained(reference.model.info.name)
    asked = requests(reference)[0]
    engine = PagedEngine(reference.model, GUESSING)
    assert run(engine, [asked]) == [continue_greedily(net, asked.prompt, LONG)]
