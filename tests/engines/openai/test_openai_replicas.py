"""Several engines behind one port: who gets which request, and what happens when one dies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from enginebench.errors import EngineError, UsageError
from enginebench_openai import layout as layout_module
from enginebench_openai.layout import Layout, claim_share
from enginebench_openai.loop import CacheFiled, Died, FileCache, Refused, Started, Stepped
from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput
from enginebench_openai.replicas import SHORTEST_PREFIX, Replicas, Router

READY = Started(128, frozenset({Feature.LOGPROBS}), 4)


def ask(name: str, prompt=(1, 2, 3)) -> GenerationRequest:
    return GenerationRequest(name, tuple(prompt), 8)


def router(count: int) -> Router:
    made = Router(count)
    made.open = [True] * count
    return made


class FakeLink:
    def __init__(self, receive) -> None:
        self.receive = receive
        self.stats: EngineStats | None = None
        self.added, self.aborted = [], []
        self.started = self.killed = False

    def start(self) -> None:
        self.started = True

    def add(self, requests) -> None:
        self.added += [request.request_id for request in requests]

    def abort(self, request_ids) -> None:
        self.aborted += request_ids

    def own_bytes(self) -> int | None:
        return None if self.killed else 100

    def kill(self) -> None:
        self.killed = True

    async def close(self, timeout_s: float) -> bool:
        return timeout_s > 1


class Behind:
    """Replicas with links that are lists, and what came out of them."""

    def __init__(self, count: int = 2, *, restarts: bool = True, ready: bool = True) -> None:
        self.links: list[list[FakeLink]] = [[] for _ in range(count)]
        self.events = []
        makes = [lambda receive, to=to: self.make(receive, to) for to in self.links]
        self.replicas = Replicas(makes, self.events.append, restarts=restarts)
        self.replicas.start()
        for number in range(count if ready else 0):
            self.link(number).receive(READY)

    def make(self, receive, to: list[FakeLink]) -> FakeLink:
        to.append(FakeLink(receive))
        return to[-1]

    def link(self, number: int) -> FakeLink:
        return self.links[number][-1]


def test_requests_go_where_there_is_least_to_do():
    chosen = router(3)
    assert [chosen.choose(ask(name)) for name in "abcd"] == [0, 1, 2, 0]
    assert chosen.leaves("b") == 1
    assert chosen.choose(ask("e")) == 1
    assert chosen.leaves("nobody") is None


def test_prompts_with_a_known_beginning_go_where_it_is_until_that_is_too_busy():
    chosen, prefix = router(2), range(SHORTEST_PREFIX)
    home = chosen.choose(ask("first", prefix))
    assert chosen.choose(ask("other", range(500, 600))) != home
    again = [chosen.choose(ask(f"again {n}", [*prefix, n])) for n in range(9)]
    assert again[:4] == [home] * 4
    assert 1 - home in again
    longer = [*prefix, *range(900, 900 + SHORTEST_PREFIX)]
    chosen = router(2)
    assert chosen.choose(ask("a", prefix)) == 0
    assert chosen.choose(ask("x")) == 1
    for name in "bcdeh":
        chosen.choose(ask(name, prefix))
    moved = chosen.choose(ask("f", longer))
    assert moved == 1
    assert chosen.choose(ask("g", longer)) == moved


def test_they_are_ready_together_and_count_together():
    behind = Behind(3, ready=False)
    for number in range(3):
        assert behind.events == []
        behind.link(number).receive(READY)
    assert behind.events == [Started(128, READY.features, 12)]
    for number in range(3):
        behind.link(number).stats = EngineStats(number, 1, 10, 20, kv_blocks_total=8)
    assert behind.replicas.stats == EngineStats(3, 3, 30, 60, kv_blocks_total=24)
    assert behind.replicas.own_bytes() == 300
    behind.link(1).kill()
    assert behind.replicas.own_bytes() is None


def test_events_pass_and_free_the_replica():
    behind = Behind()
    behind.replicas.add([ask("a"), ask("b")])
    assert [behind.link(n).added for n in (0, 1)] == [["a"], ["b"]]
    end = Stepped([TokenOutput("a", (1,), "length")])
    behind.link(0).receive(end)
    behind.replicas.add([ask("c")])
    assert behind.link(0).added == ["a", "c"]
    behind.link(0).receive(Refused("c", "too long"))
    assert behind.events[1:] == [end, Refused("c", "too long")]
    behind.replicas.abort(["b", "gone"])
    assert (behind.link(0).aborted, behind.link(1).aborted) == ([], ["b"])
    behind.replicas.file_cache(FileCache("t", "save", "x"))
    filed = behind.events[-1]
    assert isinstance(filed, CacheFiled) and "several replicas" in str(filed.error)


def test_one_that_dies_is_built_again_while_the_others_go_on():
    behind = Behind()
    behind.replicas.add([ask("a"), ask("b")])
    behind.link(0).stats = EngineStats(1, 0, 5, 7)
    behind.link(1).stats = EngineStats(1, 0, 1, 2)
    behind.link(0).receive(Died(EngineError("killed")))
    (lost,) = behind.events[-1].outputs
    assert (lost.request_id, lost.finish_reason) == ("a", "error")
    assert len(behind.links[0]) == 2 and behind.link(0).started
    assert behind.replicas.stats == EngineStats(1, 0, 6, 9)
    behind.replicas.add([ask("c"), ask("d")])
    assert behind.link(1).added == ["b", "c", "d"]
    behind.link(0).receive(READY)
    behind.replicas.add([ask("e")])
    assert behind.link(0).added == ["e"]


@pytest.mark.parametrize("which", ["while it is built", "no restarts", "the last", "built again"])
def test_when_all_of_them_end(which):
    behind = Behind(restarts=which != "no restarts", ready=which != "while it is built")
    death = Died(EngineError("killed"))
    if which in ("the last", "built again"):
        behind.link(0).receive(death)
        assert not isinstance(behind.events[-1], Died)
    behind.link(1 if which == "the last" else 0).receive(death)
    assert behind.events[-1] is death
    assert behind.link(0).killed and behind.link(1).killed
    before = len(behind.events)
    behind.link(1).receive(death)
    assert len(behind.events) == before


def test_closing_closes_all():
    behind = Behind()
    assert asyncio.run(behind.replicas.close(2.0))
    assert not asyncio.run(behind.replicas.close(0.5))


@pytest.mark.parametrize(
    ("shown", "replica", "expected"), [("0,1,2,3", 1, "2,3"), ("7,5,3,1", 0, "7,5")]
)
def test_each_replica_sees_its_own_gpus(monkeypatch, shown, replica, expected):
    monkeypatch.setattr(Path, "glob", lambda self, pattern: ["nvidia0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    claim_share(Layout(replicas=2, processes=2), replica)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_too_few_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda self, pattern: ["nvidia0", "nvidia1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UsageError, match="2 replicas of 2 GPUs need 4, and 2 are visible"):
        claim_share(Layout(replicas=2, processes=2), 0)


def test_without_gpus_replicas_share_the_cores(monkeypatch):
    taken = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: taken.append(list(cores)))
    for replica in range(2):
        claim_share(Layout(replicas=2), replica)
    assert taken == [[0, 1], [2, 3]]
    assert os.environ["OMP_NUM_THREADS"] == "2"
    claim_share(Layout(), 0)
    assert len(taken) == 2
    assert layout_module.sees_gpu() is False
