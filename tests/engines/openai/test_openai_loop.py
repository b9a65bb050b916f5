"""The engine's thread."""

from __future__ import annotations

import threading
import time

import pytest
from openai_fakes import ScriptedEngine, until

from enginebench.errors import ModelError
from enginebench_openai.echo import EchoEngine
from enginebench_openai.loop import Died, EngineThread, Refused, Started, Stepped
from enginebench_openai.protocol import GenerationRequest

pytestmark = pytest.mark.timeout(30)


def request(name: str, prompt: bytes = b"ab", max_tokens: int = 3) -> GenerationRequest:
    return GenerationRequest(name, tuple(prompt), max_tokens)


class Post(list):
    """Collects events, and the thread that each was posted from."""

    def __call__(self, event) -> None:
        self.append(event)

    def outputs(self):
        return [o for event in self if isinstance(event, Stepped) for o in event.outputs]

    def ended(self, name: str) -> bool:
        return any(o.request_id == name and o.finish_reason for o in self.outputs())


@pytest.fixture
def run():
    threads = []

    def start(engine):
        post = Post()
        threads.append(EngineThread(engine if callable(engine) else lambda: engine, post))
        threads[-1].start()
        return threads[-1], post

    yield start
    for thread in threads:
        assert thread.stop(10)


def test_one_event_per_step_whatever_the_batch(run):
    engine = ScriptedEngine()
    engine.gate.clear()
    thread, post = run(engine)
    thread.add([request(str(n)) for n in range(8)])
    until(lambda: len(engine.added) == 8)
    engine.gate.set()
    until(lambda: post.ended("7"))
    steps = [event for event in post if isinstance(event, Stepped)]
    assert post[0] == Started(engine.context_length)
    assert [len(event.outputs) for event in steps] == [8, 8, 8]


def test_the_engine_is_built_used_and_closed_in_one_thread(run):
    seen = set()

    class Watched(ScriptedEngine):
        def __getattribute__(self, name):
            if name in ("add", "abort", "has_work", "step", "stats", "close"):
                seen.add(threading.get_ident())
            return super().__getattribute__(name)

    def build():
        seen.add(threading.get_ident())
        return Watched()

    thread, post = run(build)
    thread.add([request("a")])
    until(lambda: post.ended("a"))
    assert thread.stop(10)
    assert len(seen) == 1 and threading.get_ident() not in seen


def test_abort_takes_effect_before_the_next_step(run):
    engine = ScriptedEngine()
    engine.gate.clear()
    thread, post = run(engine)
    thread.add([request("a"), request("b")])
    until(lambda: len(engine.added) == 2)
    thread.abort(["a"])
    until(lambda: engine.aborted)
    engine.gate.set()
    until(lambda: post.ended("b"))
    assert {output.request_id for output in post.outputs()} == {"b"}


def test_a_request_that_the_engine_refuses_harms_no_other(run):
    thread, post = run(ScriptedEngine())
    thread.add([request("bad", b"refuse"), request("good")])
    until(lambda: post.ended("good"))
    assert [event for event in post if isinstance(event, Refused)] == [
        Refused("bad", "this engine has no room for such a prompt")
    ]


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(0), MemoryError()])
def test_an_engine_that_raises_dies_loudly(run, caplog, error):
    engine = ScriptedEngine()
    engine.raises = error
    thread, post = run(engine)
    thread.add([request("a")])
    until(lambda: isinstance(post[-1], Died))
    assert post[-1].error is error and engine.closed
    assert "the engine failed" in caplog.text and type(error).__name__ in caplog.text


def test_a_model_that_cannot_run_is_reported_without_a_traceback(run, caplog):
    def build():
        raise ModelError("too large for this machine; take a smaller one")

    _, post = run(build)
    until(lambda: post)
    assert isinstance(post[0].error, ModelError) and not caplog.text


def test_stop_closes_an_idle_engine_and_a_busy_one(run):
    idle, busy = ScriptedEngine(), ScriptedEngine(step_s=0.01)
    idle_thread, _ = run(idle)
    busy_thread, _ = run(busy)
    busy_thread.add([request("a", max_tokens=10**6)])
    until(lambda: busy.steps)
    assert idle_thread.stop(10) and busy_thread.stop(10)
    assert idle.closed and busy.closed


def test_a_timed_engine_takes_requests_while_it_waits(run):
    """A request for now is not held up by a token that is due in an hour."""
    thread, _ = run(EchoEngine(ttft_ms=3_600_000))
    thread.add([request("later")])
    until(lambda: thread.stats and thread.stats.running_requests == 1)
    thread.add([request("second")])
    until(lambda: thread.stats.running_requests == 2)
    started = time.monotonic()
    assert thread.stop(10) and time.monotonic() - started < 5


def test_an_idle_engine_costs_no_steps(run):
    engine = ScriptedEngine()
    run(engine)
    time.sleep(0.1)
    assert engine.steps == 0
