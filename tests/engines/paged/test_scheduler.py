"""The scheduler: one behaviour each, then any order of arrivals, steps and aborts."""

from __future__ import annotations

from collections import Counter

import pytest
from fake_device import Bench, config, expected, request
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from enginebench_paged.scheduler import SchedulerConfig

# ---------------------------------------------------------------- one behaviour each


def test_decodes_share_a_step_with_the_chunks_of_a_prompt() -> None:
    bench = Bench(config())
    bench.add(request("short", (1, 2), max_tokens=9))
    bench.launch()
    bench.commit()
    bench.add(request("long", tuple(range(5)) * 4))
    lengths = []
    for _ in range(3):
        plan = bench.launch()
        assert plan is not None
        lengths.append([piece.length for piece in plan.pieces])
        bench.commit()
    assert lengths == [[1, 7], [1, 7], [1, 6]]


def test_without_chunks_a_prompt_is_computed_whole_and_alone() -> None:
    bench = Bench(config(chunked_prefill=False))
    bench.add(request("short", (1, 2), max_tokens=9))
    bench.launch()
    bench.commit()
    bench.add(request("long", tuple(range(5)) * 4))
    lengths = []
    for _ in range(2):
        plan = bench.launch()
        assert plan is not None
        lengths.append([piece.length for piece in plan.pieces])
        bench.commit()
    assert lengths == [[20], [1, 1]]


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_full_hit_still_computes_one_block(blocks: int) -> None:
    bench = Bench(config())
    prompt = (1, 2, 3, 4) * blocks
    bench.add(request("first", prompt))
    bench.run()
    again = bench.add(request("second", prompt))
    bench.run()
    assert again.cached_prompt_tokens == 4 * (blocks - 1)
    assert bench.outputs["first"] == bench.outputs["second"]
    counters = bench.scheduler.counters
    assert (counters.queried_tokens, counters.hit_tokens) == (8 * blocks, 4 * (blocks - 1))


def test_generated_tokens_are_reused_by_the_next_turn() -> None:
    bench = Bench(config())
    bench.add(request("turn", (1, 2, 3), max_tokens=6))
    bench.run()
    prompt = (1, 2, 3, *bench.outputs["turn"], 4)
    following = bench.add(request("next", prompt))
    bench.run()
    assert following.cached_prompt_tokens == 8


def test_the_newest_is_preempted_and_comes_back_first() -> None:
    bench = Bench(config(num_blocks=5, prefix_cache=False))
    names = ["old", "young", "late"]
    for name in names:
        bench.add(request(name, (1, 2, 3), max_tokens=14))
    bench.run()
    assert bench.scheduler.counters.preemptions > 0
    assert list(bench.finished) == names
    assert bench.scheduler.pool.used_count == 0


def test_without_paging_a_sequence_holds_a_whole_context_from_the_start() -> None:
    bench = Bench(config(prefix_cache=False, reserved_tokens=24))
    for name in ("one", "two", "three"):
        bench.add(request(name, (1, 2, 3), max_tokens=9))
    bench.launch()
    assert [len(sequence.blocks) for sequence in bench.scheduler.running] == [6, 6]
    bench.commit()
    bench.run()
    assert bench.scheduler.counters.preemptions == 0
    assert len(bench.finished) == 3


def test_a_request_that_can_never_fit_is_refused() -> None:
    bench = Bench(config(num_blocks=2))
    with pytest.raises(ValueError, match=r"needs 3 KV blocks of 4 .* the pool has 2"):
        bench.add(request("big", (1, 2, 3, 4), max_tokens=6))
    bench.add(request("fits", (1, 2, 3, 4), max_tokens=5))
    with pytest.raises(ValueError, match="in use"):
        bench.add(request("fits", (1,)))
    with pytest.raises(ValueError, match="needs a prompt"):
        bench.add(request("empty", ()))
    bench.run()
    assert bench.finished == {"fits": "length"}


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="step_tokens"):
        config(step_tokens=3)
    with pytest.raises(ValueError, match="block_size"):
        config(block_size=0)


def test_guesses_that_are_right_are_kept_with_the_token_after_them() -> None:
    bench = Bench(config(sampled_rows=6))
    one = bench.add(request("one", (1, 2, 3), max_tokens=12))
    bench.launch()
    bench.commit()
    while not bench.finished:
        plan = bench.launch()
        assert plan is not None
        (piece,) = plan.pieces
        before = len(one.tokens)
        bench.commit()
        right = 0
        while (
            right < len(piece.drafts)
            and piece.drafts[right] == expected(one.request)[before - 3 + right]
        ):
            right += 1
        assert len(one.tokens) - before == 1 + right
    assert bench.outputs["one"] == expected(one.request)
    counters = bench.scheduler.counters
    assert counters.draft_tokens > counters.accepted_tokens > 0
    assert bench.scheduler.pool.used_count == 0


def test_guesses_take_only_rows_that_nobody_needs() -> None:
    few = Bench(config(max_batch=2, sampled_rows=2))
    for name in ("one", "two"):
        few.add(request(name, (1, 2), max_tokens=5))
    few.run()
    assert few.scheduler.counters.draft_tokens == 0  # two rows, both taken


def test_an_aborted_request_yields_no_more_and_its_name_is_free() -> None:
    bench = Bench(config())
    bench.add(request("one", (1, 2, 3), max_tokens=9))
    bench.launch()
    bench.scheduler.abort("one")
    bench.scheduler.abort("never heard of")
    bench.add(request("one", (2, 2), max_tokens=2))
    bench.run()
    assert bench.outputs["one"] == expected(request("one", (2, 2), max_tokens=2))


# ---------------------------------------------------------------- whatever comes

CONFIGS = st.builds(
    SchedulerConfig,
    num_blocks=st.integers(1, 12),
    block_size=st.sampled_from([1, 2, 3, 4]),
    max_batch=st.integers(1, 4),
    step_tokens=st.integers(4, 12),
    prefix_cache=st.booleans(),
    chunked_prefill=st.booleans(),
    reserved_tokens=st.none() | st.integers(1, 30),
    sampled_rows=st.none() | st.integers(4, 16),
)


def fits(limits: SchedulerConfig, tokens: int) -> bool:
    """Whether the pool can hold all but the last of them, which is never computed on."""
    held = max(tokens - 1, limits.reserved_tokens or 0)
    return -(-held // limits.block_size) <= limits.num_blocks


# few distinct tokens, so that prompts often share prefixes
PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=14).map(tuple)
STOPS = st.sampled_from(["", "", "0", "14"])


@settings(max_examples=150, deadline=None)
@given(
    limits=CONFIGS,
    ahead=st.integers(0, 2),
    work=st.lists(st.tuples(PROMPTS, st.integers(1, 10), STOPS), min_size=1, max_size=8),
)
def test_every_admitted_request_finishes_with_its_own_tokens(
    limits: SchedulerConfig, ahead: int, work: list[tuple[tuple[int, ...], int, str]]
) -> None:
    bench = Bench(limits)
    taken = []
    for index, (prompt, max_tokens, stop) in enumerate(work):
        one = request(str(index), prompt, max_tokens, stop)
        try:
            bench.add(one)
        except ValueError:
            assert not fits(limits, len(prompt) + max_tokens)
        else:
            taken.append(one)
    bench.run(ahead)
    for one in taken:
        assert bench.outputs[one.request_id] == expected(one)
        whole = len(bench.outputs[one.request_id]) == one.max_tokens
        assert bench.finished[one.request_id] == ("length" if whole else "stop")
    assert bench.scheduler.pool.used_count == 0


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, steps, late commits and aborts in any order."""

    @initialize(limits=CONFIGS)
    def start(self, limits: SchedulerConfig) -> None:
        self.bench = Bench(limits)
        self.names = 0
        self.aborted: set[str] = set()

    @rule(prompt=PROMPTS, max_tokens=st.integers(1, 10), stop=STOPS)
    def add(self, prompt: tuple[int, ...], max_tokens: int, stop: str) -> None:
        self.names += 1
        limits = self.bench.scheduler.config
        if fits(limits, len(prompt) + max_tokens):
            self.bench.add(request(str(self.names), prompt, max_tokens, stop))

    @precondition(lambda self: len(self.bench.launched) < 3)
    @rule()
    def launch(self) -> None:
        self.bench.launch()

    @precondition(lambda self: self.bench.launched)
    @rule()
    def commit(self) -> None:
        self.bench.commit()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = str(data.draw(st.integers(0, self.names + 1)))
        if name not in self.bench.finished:
            self.aborted.add(name)
        self.bench.scheduler.abort(name)

    @invariant()
    def books_are_exact(self) -> None:
        if not hasattr(self, "bench"):
            return
        scheduler = self.bench.scheduler
        holders = Counter(block for seq in scheduler.running for block in seq.blocks)
        pool = scheduler.pool
        for block in range(pool.num_blocks):
            assert pool.count(block) == holders[block]
        slots = [seq.slot for seq in scheduler.running]
        assert len(set(slots)) == len(slots) <= scheduler.config.max_batch
        assert None not in slots
        assert all(seq.slot is None and not seq.blocks for seq in scheduler.waiting)
        for seq in scheduler.running:
            assert len(set(seq.blocks)) == len(seq.blocks)
        held, filled = scheduler.slots
        assert held == holders.total() * scheduler.config.block_size >= filled

    @invariant()
    def first_come_first_served(self) -> None:
        if not hasattr(self, "bench"):
            return
        scheduler = self.bench.scheduler
        unfinished = [seq for seq in self.bench.arrivals if seq.finish_reason is None]
        assert [*scheduler.running, *scheduler.waiting] == unfinished

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.run()
        for sequence in self.bench.arrivals:
            name = sequence.request.request_id
            if name not in self.aborted:
                assert self.bench.outputs[name] == expected(sequence.request)
        assert self.bench.scheduler.pool.used_count == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
