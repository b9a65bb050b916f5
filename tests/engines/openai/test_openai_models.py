"""Several models behind one server, and engines that die: loaded, unloaded, built again."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai_fakes import Running, ScriptedEngine, http_get, http_post, serving, until

from enginebench.errors import ModelError
from enginebench_openai.limits import PoolSettings

pytestmark = pytest.mark.timeout(60)


class Engines:
    """Builds engines for one model and remembers them."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.built: list[ScriptedEngine] = []
        self.step_s = step_s
        self.may_build = threading.Event()
        self.may_build.set()
        self.raises: BaseException | None = None

    def __call__(self) -> ScriptedEngine:
        self.may_build.wait(20)
        if self.raises is not None:
            raise self.raises
        self.built.append(ScriptedEngine(step_s=self.step_s))
        return self.built[-1]

    @property
    def last(self) -> ScriptedEngine:
        return self.built[-1]


def ask(server, model: str, **more):
    body = {"model": model, "prompt": "abc", "max_tokens": 3, **more}
    return http_post(f"{server.url}/v1/completions", json=body, timeout=30)


def loaded(server) -> dict[str, bool]:
    cards = http_get(f"{server.url}/v1/models").json()["data"]
    return {card["id"]: card["loaded"] for card in cards}


def metrics(server) -> dict[str, float]:
    lines = http_get(f"{server.url}/metrics").text.splitlines()
    pairs = (line.removeprefix("enginebench:").rsplit(" ", 1) for line in lines if line[0] != "#")
    return {name: float(value) for name, value in pairs}


def test_a_model_is_loaded_when_a_request_names_it():
    a, b = Engines(), Engines()
    with serving({"a": a, "b": b}) as server:
        assert loaded(server) == {"a": True, "b": False} and not b.built
        answer = ask(server, "b").json()
        assert answer["model"] == "b" and answer["choices"][0]["text"] == "abc"
        assert loaded(server) == {"a": False, "b": True} and a.last.closed
        assert ask(server, "a").status_code == 200 and len(a.built) == 2 and b.last.closed
        unknown = ask(server, "c")
        assert unknown.status_code == 404 and "'a', 'b'" in unknown.json()["error"]["message"]
        found = metrics(server)
        assert found["model_switch_seconds_count"] == 2
        assert found['model_load_seconds_count{model="a"}'] == 2
        assert found['model_loaded{model="a"}'] == 1 and found['model_loaded{model="b"}'] == 0
        chat = {"model": "b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert http_post(f"{server.url}/v1/chat/completions", json=chat).status_code == 200
        tokens = http_post(f"{server.url}/tokenize", json={"model": "a", "prompt": "abc"}).json()
        assert tokens["count"] == 3
        assert loaded(server)["b"]  # tokens need no engine


def test_three_that_share_the_room_of_two_lose_nothing():
    engines = {name: Engines(step_s=0.001) for name in "abc"}
    settings = PoolSettings(max_loaded=None, memory_bytes=2)
    with (
        serving(engines, sizes=dict.fromkeys("abc", 1), pool=settings) as server,
        ThreadPoolExecutor(12) as pool,
    ):
        asked = [pool.submit(ask, server, "abc"[n % 3]) for n in range(60)]
        assert [one.result().status_code for one in asked] == [200] * 60
        assert sum(loaded(server).values()) <= 2


def test_what_is_in_flight_ends_before_its_model_leaves():
    a, b = Engines(step_s=0.02), Engines()
    with serving({"a": a, "b": b}) as server, ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask, server, "a", max_tokens=30) for _ in range(3)]
        until(lambda: len(a.last.added) == 3)
        other = pool.submit(ask, server, "b")
        later = [pool.submit(ask, server, "a") for _ in range(2)]
        answers = [one.result() for one in (*running, other, *later)]
        assert [answer.status_code for answer in answers] == [200] * 6
        assert all(one.json()["usage"]["completion_tokens"] == 30 for one in answers[:3])
        assert not a.built[0].aborted


def test_two_models_that_are_both_wanted_take_turns_and_lose_nothing():
    a, b = Engines(step_s=0.001), Engines(step_s=0.001)
    with serving({"a": a, "b": b}) as server, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, server, "ab"[n % 2]) for n in range(60)]
        assert [one.result().status_code for one in asked] == [200] * 60
        assert metrics(server)["requests_in_flight"] == 0


def test_two_fit_where_the_operator_says_so():
    a, b = Engines(), Engines()
    with serving({"a": a, "b": b}, pool=PoolSettings(max_loaded=2)) as server:
        assert ask(server, "b").status_code == ask(server, "a").status_code == 200
        assert loaded(server) == {"a": True, "b": True}
        assert (len(a.built), len(b.built)) == (1, 1)


def test_models_stay_while_their_weights_fit():
    engines = {name: Engines() for name in "abc"}
    sizes = {"a": 40, "b": 30, "c": 40}
    settings = PoolSettings(max_loaded=None, memory_bytes=100)
    with serving(engines, sizes=sizes, pool=settings) as server:
        assert ask(server, "b").status_code == ask(server, "a").status_code == 200
        assert loaded(server) == {"a": True, "b": True, "c": False}
        assert ask(server, "c").status_code == 200  # b was used longest ago
        assert loaded(server) == {"a": True, "b": False, "c": True}
        found = metrics(server)
        assert found['model_memory_bytes{model="a"}'] == 40
        assert 'model_memory_bytes{model="b"}' not in found
        assert [len(one.built) for one in engines.values()] == [1, 1, 1]


def test_an_engine_that_takes_more_than_its_weights_makes_another_leave():
    a, b = Engines(), Engines()

    def large() -> ScriptedEngine:
        engine = b()
        engine.device_bytes = 90
        return engine

    settings = PoolSettings(max_loaded=None, memory_bytes=100)
    with serving({"a": a, "b": large}, sizes={"a": 40, "b": 40}, pool=settings) as server:
        assert ask(server, "b").status_code == 200
        until(lambda: loaded(server) == {"a": False, "b": True})
        assert metrics(server)['model_memory_bytes{model="b"}'] == 90
        assert ask(server, "a").status_code == 200  # now it is known: b leaves first
        assert b.last.closed and loaded(server) == {"a": True, "b": False}
        assert ask(server, "b").status_code == 200 and len(b.built) == 2


def test_a_model_too_large_for_the_memory_is_alone():
    engines = {name: Engines() for name in "ab"}
    settings = PoolSettings(max_loaded=None, memory_bytes=10)
    with serving(engines, sizes={"a": 40, "b": 30}, pool=settings) as server:
        assert ask(server, "b").status_code == ask(server, "a").status_code == 200
        assert loaded(server) == {"a": True, "b": False}


def test_an_idle_model_leaves_and_comes_back():
    a = Engines()
    with serving(a, pool=PoolSettings(idle_timeout_s=0.1)) as server:
        assert ask(server, "fake").status_code == 200
        until(lambda: a.last.closed)
        assert http_get(f"{server.url}/health").status_code == 200
        counted = metrics(server)
        assert counted['model_loaded{model="fake"}'] == 0 and counted["requests_running"] == 0
        assert ask(server, "fake").status_code == 200 and len(a.built) == 2


def test_a_model_that_cannot_be_loaded_says_why_and_harms_nobody():
    a, b = Engines(), Engines()
    b.raises = ModelError("no such weights")
    with serving({"a": a, "b": b}) as server:
        for _ in range(2):
            answer = ask(server, "b")
            assert answer.status_code == 503 and "no such weights" in answer.text
        assert ask(server, "a").status_code == 200
        b.raises = None
        assert ask(server, "b").status_code == 200


def test_an_engine_that_dies_is_built_again_and_readiness_says_so():
    a = Engines(step_s=0.02)
    with (
        serving(a, pool=PoolSettings(restarts=2)) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        running = pool.submit(ask, server, "fake", max_tokens=50, stream=True)
        until(lambda: a.last.steps >= 3)
        a.may_build.clear()
        a.last.raises = RuntimeError("boom")
        answer = running.result()
        last = answer.text.strip().splitlines()[-1].removeprefix("data: ")
        assert json.loads(last)["error"]["code"] == "engine_error"
        health = http_get(f"{server.url}/health")
        assert (health.status_code, health.json()) == (503, {"status": "restarting"})
        early = ask(server, "fake")
        assert early.status_code == 503 and early.headers["retry-after"] == "1"
        a.may_build.set()
        until(lambda: http_get(f"{server.url}/health").status_code == 200)
        assert ask(server, "fake").status_code == 200
        assert metrics(server)['engine_restarts_total{model="fake"}'] == 1


def test_what_waits_for_a_slot_outlives_the_engine():
    a = Engines(step_s=0.02)

    def build():
        engine = a()
        engine.slots = 1
        return engine

    with (
        serving(build, pool=PoolSettings(restarts=2)) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        asked = [pool.submit(ask, server, "fake", max_tokens=20) for _ in range(4)]
        until(lambda: metrics(server)["requests_in_flight"] == 4)
        a.last.raises = RuntimeError("boom")
        codes = sorted(one.result().status_code for one in asked)
        assert codes == [200, 200, 503, 503]  # one ran and one was handed to the engine ahead


def test_tries_are_bounded(monkeypatch):
    monkeypatch.setattr("enginebench_openai.keeper.FIRST_PAUSE_S", 0.01)
    a = Engines()
    server = Running(a, pool=PoolSettings(restarts=2))
    server.start()
    a.raises = RuntimeError("no memory")
    a.last.raises = RuntimeError("boom")
    assert ask(server, "fake").status_code == 503
    assert server.join() == 1
