"""The engine's queue, chunks, endings and cache reuse, over a runner that computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from enginebench_openai.protocol import GenerationRequest, SamplingParams, TokenEngine, TokenOutput
from enginebench_quant.engine import QuantEngine

GREEDY = SamplingParams(temperature=0)
VOCABULARY = 50


class CountingRunner:
    """Says token + 1 after each token, and checks that positions are written in order."""

    cache: Any

    def __init__(self) -> None:
        self.cache = []
        self.calls: list[tuple[int, int]] = []
        self.is_closed = False

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> NDArray[np.float32] | None:
        assert 0 < len(tokens) <= 128 and position <= len(self.cache)
        self.cache[position:] = tokens
        self.calls.append((position, len(tokens)))
        if not want_logits:
            return None
        logits = np.zeros(VOCABULARY, np.float32)
        logits[(tokens[-1] + 1) % VOCABULARY] = 1
        return logits

    def forward_rows(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        assert len(tokens) <= 8
        rows = []
        for index, token in enumerate(tokens):
            row = self.forward([token], position + index)
            assert row is not None
            rows.append(row)
        self.calls[-len(tokens) :] = [(position, len(tokens))]
        return np.stack(rows)

    def forward_hidden(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        self.forward(tokens, position, want_logits=False)
        return np.array([[token, position + index] for index, token in enumerate(tokens)], "f4")

    def shift(self, kept: int, end: int, count: int) -> None:
        assert count == len(self.cache)
        del self.cache[kept:end]

    def close(self) -> None:
        self.is_closed = True


class Guesser:
    """Guesses what the runner will say, wrongly where it was told to."""

    def __init__(self, wrong: Sequence[bool]) -> None:
        self.text: list[int] = []
        self.wrong = list(wrong)
        self.is_closed = False

    def begin(self, prompt: Sequence[int]) -> None:
        self.text = list(prompt)

    def see(self, tokens: Sequence[int]) -> None:
        self.text += tokens

    def propose(self, count: int) -> Sequence[int]:
        right = [(self.text[-1] + 1 + index) % VOCABULARY for index in range(count)]
        wrong = self.wrong[len(self.text) % len(self.wrong) :] + [False] * count
        return [token + is_wrong for token, is_wrong in zip(right, wrong, strict=False)]

    def close(self) -> None:
        self.is_closed = True


def request(
    name: str, prompt: Sequence[int], max_tokens: int = 3, stop: Sequence[int] = ()
) -> GenerationRequest:
    return GenerationRequest(name, tuple(prompt), max_tokens, GREEDY, frozenset(stop))


def finish(engine: TokenEngine) -> list[TokenOutput]:
    outputs: list[TokenOutput] = []
    while engine.has_work():
        outputs += engine.step()
    return outputs


def answers(outputs: Sequence[TokenOutput]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for output in outputs:
        found.setdefault(output.request_id, []).extend(output.token_ids)
    return found


def make_engine(**options: Any) -> tuple[QuantEngine, CountingRunner]:
    runner = CountingRunner()
    return QuantEngine(runner, context=400, **options), runner


def test_requests_are_served_first_in_first_out() -> None:
    engine, _ = make_engine()
    engine.add(request("a", [1, 2]))
    engine.add(request("b", [10]))
    outputs = finish(engine)
    assert answers(outputs) == {"a": [3, 4, 5], "b": [11, 12, 13]}
    assert [o.request_id for o in outputs] == ["a"] * 3 + ["b"] * 3
    assert [o.finish_reason for o in outputs] == [None, None, "length"] * 2


def test_a_stop_token_ends_and_is_not_part_of_the_output() -> None:
    engine, _ = make_engine()
    engine.add(request("a", [1], max_tokens=10, stop=[4]))
    outputs = finish(engine)
    assert answers(outputs) == {"a": [2, 3]}
    assert outputs[-1].finish_reason == "stop" and outputs[-1].token_ids == ()


def test_long_prompts_go_in_chunks_and_only_the_last_yields() -> None:
    engine, runner = make_engine()
    engine.add(request("a", [7] * 300, max_tokens=1))
    assert [len(engine.step()) for _ in range(3)] == [0, 0, 1]
    assert runner.calls == [(0, 128), (128, 128), (256, 44)]
    assert not engine.has_work()


def test_a_shared_prefix_is_not_computed_again() -> None:
    engine, runner = make_engine()
    engine.add(request("a", [1, 2, 3, 4]))
    finish(engine)
    runner.calls.clear()
    engine.add(request("b", [1, 2, 3, 4, 5, 6, 9]))  # the answer to "a" was 5 6 7
    outputs = finish(engine)
    assert runner.calls[0] == (6, 1)
    assert {o.cached_prompt_tokens for o in outputs} == {6}
    stats = engine.stats()
    assert stats.prefix_cache_queried_tokens_total == 11
    assert stats.prefix_cache_hit_tokens_total == 6
    assert stats.prompt_tokens_total == 11 and stats.generated_tokens_total == 6


def test_an_identical_prompt_computes_its_last_token() -> None:
    engine, runner = make_engine()
    for name in "ab":
        engine.add(request(name, [1, 2, 3]))
    outputs = finish(engine)
    assert answers(outputs)["a"] == answers(outputs)["b"]
    assert (2, 1) in runner.calls
    assert outputs[-1].cached_prompt_tokens == 2


def test_without_the_prompt_cache_all_is_computed() -> None:
    engine, runner = make_engine(prompt_cache=False)
    for name in "ab":
        engine.add(request(name, [1, 2, 3]))
    outputs = finish(engine)
    assert runner.calls.count((0, 3)) == 2
    assert {o.cached_prompt_tokens for o in outputs} == {0}
    assert engine.stats().prefix_cache_queried_tokens_total is None


def test_guesses_are_verified_in_one_pass_and_the_right_ones_kept() -> None:
    engine, runner = make_engine(drafter=Guesser([False]))
    engine.add(request("a", [1, 2, 3], max_tokens=10))
    outputs = finish(engine)
    assert [output.token_ids for output in outputs] == [
        (4,),
        (5, 6, 7, 8, 9, 10, 11, 12),
        (13,),
    ]
    assert runner.calls == [(0, 3), (3, 8), (11, 1)]


@given(
    st.lists(st.booleans(), min_size=1, max_size=9),
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.integers(1, 30),
    st.sets(st.integers(0, 20), max_size=2),
)
def test_guesses_right_or_wrong_change_no_answer(
    wrong: list[bool], prompt: list[int], max_tokens: int, stop: set[int]
) -> None:
    """Nor what the cache holds for the next prompt."""
    answered = []
    for drafter in (None, Guesser(wrong)):
        engine, runner = make_engine(drafter=drafter)
        for name in "ab":
            engine.add(request(name, prompt, max_tokens, sorted(stop)))
            outputs = finish(engine)
        said = [*prompt, *answers(outputs)["b"]]
        held = engine._slot.in_cache
        assert held == runner.cache[: len(held)] == said[: len(held)]
        answered.append((answers(outputs), outputs[-1].finish_reason, engine.stats()))
    assert answered[0] == answered[1]


def test_logprobs_of_prompt_and_output() -> None:
    engine, runner = make_engine()
    asked = replace(request("a", range(20), max_tokens=2), logprobs=1, prompt_logprobs=0)
    engine.add(asked)
    outputs = finish(engine)
    scores = [score for output in outputs for score in output.prompt_logprobs]
    assert [score.token_id for score in scores] == list(range(1, 20))
    assert runner.calls[:3] == [(0, 8), (8, 8), (16, 4)]
    best = 1 - np.log(49 + np.e)
    assert all(score.logprob == pytest.approx(best) for score in scores)
    found = [entry for output in outputs for entry in output.logprobs]
    assert [entry.token_id for entry in found] == [20, 21] == [entry.top[0][0] for entry in found]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_prompt_is_embedded_chunk_by_chunk_whatever_the_cache_holds(pooling: Any) -> None:
    engine, runner = make_engine()
    prompt = [3] * 200
    for name in "ab":
        engine.add(replace(request(name, prompt, max_tokens=0), pooling=pooling))
    outputs = finish(engine)
    direction = np.array([3.0, 99.5 if pooling == "mean" else 199.0])
    for output in outputs:
        assert output.embedding == pytest.approx(direction / np.linalg.norm(direction), rel=1e-5)
        assert output.finish_reason == "stop" and not output.token_ids
    assert runner.calls == [(0, 128), (128, 72)] * 2


def test_a_sampler_that_the_chain_leaves_out_is_refused_by_name() -> None:
    engine, _ = make_engine(samplers=("top_k", "temperature"))
    sampling = SamplingParams(top_p=0.5, top_k=3)
    with pytest.raises(ValueError, match="leaves out top_p"):
        engine.add(replace(request("a", [1]), sampling=sampling))
    engine.add(replace(request("b", [1]), sampling=replace(sampling, top_p=1.0)))


def test_abort_while_waiting_and_while_running() -> None:
    engine, _ = make_engine()
    for name in "abc":
        engine.add(request(name, [1, 2], max_tokens=5))
    engine.step()
    engine.abort("b")
    engine.abort("a")
    engine.abort("nobody")
    assert engine.stats().waiting_requests == 1 and engine.stats().running_requests == 0
    assert answers(finish(engine)) == {"c": [3, 4, 5, 6, 7]}


def test_what_never_fits_is_refused() -> None:
    engine, _ = make_engine()
    with pytest.raises(ValueError, match="399 tokens and 2 more do not fit a context of 400"):
        engine.add(request("a", [1] * 399, max_tokens=2))
    with pytest.raises(ValueError, match="a prompt of 0 tokens"):
        engine.add(request("a", []))
    assert not engine.has_work()


def test_close_reaches_the_runner_and_the_drafter() -> None:
    guesser = Guesser([False])
    engine, runner = make_engine(drafter=guesser)
    engine.close()
    assert runner.is_closed and guesser.is_closed


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(1, 5)),
        max_size=6,
    ),
    st.data(),
)
def test_reuse_and_aborts_change_no_answer(
    requests: list[tuple[list[int], int]], data: st.DataObject
) -> None:
    """The runner's cache always holds exactly the running request's tokens; answers are its own."""
    engine, runner = make_engine()
    found: dict[str, list[int]] = {}
    aborted: set[str] = set()
    for index, (prompt, max_tokens) in enumerate(requests):
        engine.add(request(str(index), prompt, max_tokens))
    while engine.has_work():
        for output in engine.step():
            assert output.request_id not in aborted
            found.setdefault(output.request_id, []).extend(output.token_ids)
            index = int(output.request_id)
            said = requests[index][0] + found[output.request_id]
            assert runner.cache[: len(said) - 1] == said[:-1]
        if requests and data.draw(st.booleans()):
            name = str(data.draw(st.integers(0, len(requests) - 1)))
            engine.abort(name)
            aborted.add(name)
    for index, (prompt, max_tokens) in enumerate(requests):
        if str(index) not in aborted:
            expected = [(prompt[-1] + 1 + i) % VOCABULARY for i in range(max_tokens)]
            assert found[str(index)] == expected
