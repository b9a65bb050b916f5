"""The engine's queue, chunks, endings, cache reuse and steps ahead, over a runner that computes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_openai.protocol import GenerationRequest, SamplingParams, TokenEngine, TokenOutput
from enginebench_quant.gpu.engine import STEPS_AHEAD, GpuEngine
from enginebench_quant.gpu.model import TICKETS, Ticket

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
