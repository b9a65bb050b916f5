"""The engine's queue, chunks, endings, cache reuse and steps ahead, over a runner that computes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_openai.protocol import (
    Dry,
    GenerationRequest,
    SamplingParams,
    TokenEngine,
    TokenOutput,
)
from enginebench_quant.drafts import NgramDrafter
from enginebench_quant.gpu.engine import STEPS_AHEAD, GpuEngine
from enginebench_quant.gpu.model import TICKETS, Ticket
from enginebench_quant.gpu.techniques import Techniques

GREEDY = SamplingParams(temperature=0)
VOCABULARY = 50


class CountingRunner:
    """Says token + 1 after each token, keeps what a cache would, checks positions."""

    def __init__(self) -> None:
        self.cache: list[int] = []
        self.prefills: list[tuple[int, int]] = []
        self.given: dict[int, int] = {}
        self.drawn = 0
        self.most_ahead = self.read = 0
        self.is_closed = False
        self._last = 0
        self.rows: list[tuple[int, int]] = []  # positions and counts of logits that were read

    def forward(self, tokens, position, *, want_logits=True):
        self.prefill(tokens, position)
        return (
            self.forward_rows(tokens[-1:], position + len(tokens) - 1)[0] if want_logits else None
        )

    def forward_rows(self, tokens, position):
        self.cache[position:] = tokens
        self.rows.append((position, len(tokens)))
        logits = np.zeros((len(tokens), VOCABULARY), np.float32)
        logits[range(len(tokens)), [(token + 1) % VOCABULARY for token in tokens]] = 1
        return logits

    def forward_hidden(self, tokens, position):
        return np.ones((len(tokens), 4), np.float32)

    def shift(self, kept, end, count) -> None:
        del self.cache[kept:end]

    def begin(self, prompt: Sequence[int], sampling: SamplingParams) -> None:
        self.read = self.drawn

    def prefill(self, tokens: Sequence[int], position: int) -> None:
        assert 0 < len(tokens) <= 512 and position <= len(self.cache)
        self.cache[position:] = tokens
        self.prefills.append((position, len(tokens)))

    def choose(self) -> Ticket:
        self._last = (self.cache[-1] + 1) % VOCABULARY
        return self._ticket()

    def decode(self) -> Ticket:
        self.cache.append(self._last)
        self._last = (self._last + 1) % VOCABULARY
        return self._ticket()

    def token(self, ticket: Ticket) -> int:
        self.read += 1
        return self.given[ticket.slot]

    def close(self) -> None:
        self.is_closed = True

    def _ticket(self) -> Ticket:
        slot = self.drawn % TICKETS
        self.drawn += 1
        self.most_ahead = max(self.most_ahead, self.drawn - self.read)
        self.given[slot] = self._last
        return Ticket(slot, None)


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


def make_engine(**options: bool) -> tuple[GpuEngine, CountingRunner]:
    runner = CountingRunner()
    return GpuEngine(runner, context=1200, **options), runner


def test_requests_are_served_first_in_first_out() -> None:
    engine, _ = make_engine()
    engine.add(request("a", [1, 2]))
    engine.add(request("b", [10]))
    outputs = finish(engine)
    assert answers(outputs) == {"a": [3, 4, 5], "b": [11, 12, 13]}
    assert [o.finish_reason for o in outputs] == [None, None, "length"] * 2


def test_steps_are_queued_ahead_but_never_too_many() -> None:
    engine, runner = make_engine()
    engine.add(request("a", [1], max_tokens=20))
    engine.step()
    assert runner.drawn == STEPS_AHEAD
    finish(engine)
    assert runner.drawn == 20 and runner.most_ahead == STEPS_AHEAD


def test_a_stop_token_ends_and_what_was_computed_beyond_is_dropped() -> None:
    engine, runner = make_engine()
    engine.add(request("a", [1], max_tokens=10, stop=[4]))
    outputs = finish(engine)
    assert answers(outputs) == {"a": [2, 3]}
    assert outputs[-1].finish_reason == "stop" and outputs[-1].token_ids == ()
    engine.add(request("b", [1, 2, 3, 9]))
    assert answers(finish(engine)) == {"b": [10, 11, 12]}
    assert runner.prefills[-1] == (3, 1)


def test_long_prompts_go_in_chunks_and_only_the_last_yields() -> None:
    engine, runner = make_engine()
    engine.add(request("a", [7] * 1100, max_tokens=1))
    assert [len(engine.step()) for _ in range(3)] == [0, 0, 1]
    assert runner.prefills == [(0, 512), (512, 512), (1024, 76)]
    assert not engine.has_work()


def test_a_shared_prefix_is_not_computed_again() -> None:
    engine, runner = make_engine()
    engine.add(request("a", [1, 2, 3, 4]))
    finish(engine)
    engine.add(request("b", [1, 2, 3, 4, 5, 6, 9]))  # the answer to "a" was 5 6 7
    outputs = finish(engine)
    assert runner.prefills[-1] == (6, 1)
    assert {o.cached_prompt_tokens for o in outputs} == {6}
    stats = engine.stats()
    assert stats.prefix_cache_queried_tokens_total == 11
    assert stats.prefix_cache_hit_tokens_total == 6
    assert stats.prompt_tokens_total == 11 and stats.generated_tokens_total == 6


def test_without_the_prompt_cache_all_is_computed() -> None:
    engine, runner = make_engine(prompt_cache=False)
    for name in "ab":
        engine.add(request(name, [1, 2, 3]))
    outputs = finish(engine)
    assert runner.prefills.count((0, 3)) == 2
    assert {o.cached_prompt_tokens for o in outputs} == {0}
    assert engine.stats().prefix_cache_queried_tokens_total is None


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
    with pytest.raises(ValueError, match="1199 tokens and 2 more do not fit a context of 1200"):
        engine.add(request("a", [1] * 1199, max_tokens=2))
    with pytest.raises(ValueError, match="a prompt of 0 tokens"):
        engine.add(request("a", []))
    assert not engine.has_work()


GREEDY_PARTS = {
    "logprobs": {"logprobs": 2},
    "min_tokens": {"min_tokens": 2},
    "bias": {"sampling": SamplingParams(temperature=0, logit_bias=((7, 5.0),))},
    "dry": {"sampling": SamplingParams(temperature=0, dry=Dry(0.8))},
    "last_n": {"sampling": SamplingParams(0, repetition_penalty=1.1, penalty_last_n=2)},
}


@pytest.mark.parametrize("facts", GREEDY_PARTS.values(), ids=GREEDY_PARTS)
def test_what_the_device_cannot_choose_is_chosen_from_logits(facts) -> None:
    engine, runner = make_engine()
    engine.add(replace(request("a", [1, 2]), **facts))
    outputs = finish(engine)
    assert runner.drawn == 0 and runner.rows == [(1, 1), (2, 1), (3, 1)]
    biased = facts.get("sampling", GREEDY).logit_bias
    assert answers(outputs) == {"a": [7, 7, 7] if biased else [3, 4, 5]}
    assert ("logprobs" in facts) == all(output.logprobs for output in outputs)
    engine.add(request("b", [30]))
    assert answers(finish(engine)) == {"b": [31, 32, 33]} and runner.drawn == 3


def test_techniques_can_be_turned_off() -> None:
    for off, drawn in (("device_sampling", 0), ("steps_ahead", 3)):
        runner = CountingRunner()
        engine = GpuEngine(runner, context=1200, techniques=Techniques.of({off: False}))
        engine.add(request("a", [1]))
        assert answers(finish(engine)) == {"a": [2, 3, 4]}
        assert runner.drawn == drawn and runner.most_ahead <= 1


def test_another_order_of_samplers_is_not_the_devices() -> None:
    sampling = SamplingParams(temperature=0.7, top_k=1)
    for order, drawn in (("top_k", "temperature"), 0), (("temperature", "top_k"), 3):
        runner = CountingRunner()
        engine = GpuEngine(runner, context=1200, samplers=order)
        engine.add(replace(request("a", [1]), sampling=sampling))
        assert answers(finish(engine)) == {"a": [2, 3, 4]}
        assert runner.drawn == drawn


def test_guesses_are_verified_in_one_pass() -> None:
    runner = CountingRunner()
    engine = GpuEngine(runner, context=1200, drafter=NgramDrafter(3))
    engine.add(request("a", [5, 6, 7, 8, 9, 1, 2, 3, 4], max_tokens=6))
    assert answers(finish(engine)) == {"a": [5, 6, 7, 8, 9, 10]}
    assert max(count for _, count in runner.rows) == 4 and len(runner.rows) < 6


def test_a_full_context_is_shifted() -> None:
    runner = CountingRunner()
    engine = GpuEngine(runner, context=12, keep_tokens=2)
    engine.add(request("a", [1, 2], max_tokens=20))
    assert answers(finish(engine)) == {"a": list(range(3, 23))}
    assert runner.drawn == 0 and len(runner.cache) <= 12


def test_close_reaches_the_runner() -> None:
    engine, runner = make_engine()
    engine.close()
    assert runner.is_closed


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=1, max_size=600),
            st.integers(1, 9),
            st.sets(st.integers(0, 8), max_size=2),
        ),
        max_size=5,
    ),
    st.data(),
)
def test_reuse_stops_and_aborts_change_no_answer(
    requests: list[tuple[list[int], int, set[int]]], data: st.DataObject
) -> None:
    engine, runner = make_engine()
    found: dict[str, list[int]] = {}
    aborted: set[str] = set()
    for index, (prompt, max_tokens, stop) in enumerate(requests):
        engine.add(request(str(index), prompt, max_tokens, sorted(stop)))
    while engine.has_work():
        for output in engine.step():
            assert output.request_id not in aborted
            found.setdefault(output.request_id, []).extend(output.token_ids)
            index = int(output.request_id)
            said = requests[index][0] + found[output.request_id]
            assert runner.cache[: len(said) - 1] == said[:-1]
            held = engine._slot.in_cache
            assert held == runner.cache[: len(held)]
        if requests and data.draw(st.booleans()):
            name = str(data.draw(st.integers(0, len(requests) - 1)))
            engine.abort(name)
            aborted.add(name)
    for index, (prompt, max_tokens, stop) in enumerate(requests):
        if str(index) not in aborted:
            expected = []
            for token in range(prompt[-1] + 1, prompt[-1] + 1 + max_tokens):
                if token in stop:
                    break
                expected.append(token)
            assert found[str(index)] == expected
