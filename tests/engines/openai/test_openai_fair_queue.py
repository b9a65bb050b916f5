"""Whose turn it is: pure bookkeeping, held against its promises."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enginebench_openai.fair_queue import FairQueue

CLIENTS = st.sampled_from("abc")


def test_the_client_with_the_fewest_slots_is_next():
    queue = FairQueue(places=100)
    for number in range(6):
        queue.push(f"a{number}", "a")
    assert [queue.pop(), queue.pop()] == ["a0", "a1"]
    queue.push("b0", "b")
    queue.push("b1", "b")
    queue.push("b2", "b")
    # a holds two, b none: b catches up, then they take turns
    assert [queue.pop() for _ in range(4)] == ["b0", "b1", "a2", "b2"]


def test_who_stepped_back_comes_after_everybody():
    queue = FairQueue(places=100)
    queue.push("batch", "a", priority=5)
    queue.push("later", "b", priority=1)
    queue.push("now", "a")
    assert [queue.pop() for _ in range(3)] == ["now", "later", "batch"]


def test_no_client_can_fill_the_queue():
    queue = FairQueue(places=8)
    taken = 0
    while queue.has_room(1, "greedy"):
        queue.push(str(taken), "greedy")
        taken += 1
    assert taken == 4
    assert queue.has_room(1, "newcomer") and not queue.has_room(5, "newcomer")


class Queueing(RuleBasedStateMachine):
    """Against lists: order within a client, fairness between them, nothing lost or kept."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(places=20)
        self.waiting: dict[str, list[str]] = {}
        self.held: Counter[str] = Counter()
        self.pushed = 0

    @rule(client=CLIENTS)
    def push(self, client):
        room = self.queue.has_room(1, client)
        total = sum(map(len, self.waiting.values()))
        assert room == (len(self.waiting.get(client, ())) + 1 <= 20 - total)
        if room:
            self.pushed += 1
            self.queue.push(str(self.pushed), client)
            self.waiting.setdefault(client, []).append(str(self.pushed))

    @precondition(lambda self: any(self.waiting.values()))
    @rule()
    def pop(self):
        fewest = min(self.held[one] for one, names in self.waiting.items() if names)
        name = self.queue.pop()
        (client,) = [one for one, names in self.waiting.items() if name in names]
        assert self.waiting[client][0] == name and self.held[client] == fewest
        self.waiting[client].pop(0)
        self.held[client] += 1

    @rule(client=CLIENTS)
    def release(self, client):
        if self.held[client]:
            self.held[client] -= 1
            self.queue.release(client)

    @rule(client=CLIENTS, at=st.integers(0, 5))
    def leave(self, client, at):
        names = self.waiting.get(client, [])
        if at < len(names):
            assert self.queue.remove(names.pop(at))
        assert not self.queue.remove("nobody")

    @invariant()
    def nothing_is_lost(self):
        assert len(self.queue) == sum(map(len, self.waiting.values()))
        assert set(self.queue) == {name for names in self.waiting.values() for name in names}

    def teardown(self):
        for client, count in self.held.items():
            for _ in range(count):
                self.queue.release(client)
        for names in self.waiting.values():
            for name in names:
                self.queue.remove(name)
        kept = (self.queue._last_turn, self.queue._held, self.queue._waiting, self.queue._levels)
        assert not any(kept)


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
