"""The echo engine's cadence, on a clock that the test moves."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_fakes import http_post

from enginebench.errors import UsageError
from enginebench.types import EngineSpec, Hardware, ModelInfo
from enginebench_openai.echo import EchoEngine
from enginebench_openai.plugin import Echo, enginebench_engines
from enginebench_openai.protocol import GenerationRequest, TimedEngine, TokenEngine


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def request(name: str, prompt=(1, 2, 3), max_tokens: int = 4) -> GenerationRequest:
    return GenerationRequest(name, tuple(prompt), max_tokens)


def play(engine: EchoEngine, clock: Clock) -> list[tuple[float, str, tuple[int, ...]]]:
    """Step exactly when something is due; what came, with its time since the start in ms."""
    start, seen = clock.now, []
    while engine.has_work():
        clock.now += engine.due_in_s()
        for output in engine.step():
            at = round((clock.now - start) * 1e3, 6)
            seen.append((at, output.request_id, output.token_ids))
    return seen


def test_is_a_timed_engine():
    engine: TokenEngine = EchoEngine()
    assert isinstance(engine, TimedEngine)


def test_tokens_cycle_over_the_prompt_at_the_cadence():
    clock = Clock()
    engine = EchoEngine(ttft_ms=30, itl_ms=5, clock=clock)
    engine.add(request("a"))
    assert play(engine, clock) == [
        (30, "a", (1,)),
        (35, "a", (2,)),
        (40, "a", (3,)),
        (45, "a", (1,)),
    ]


def test_a_late_step_gives_all_that_is_due_and_the_next_is_on_time():
    clock = Clock()
    engine = EchoEngine(ttft_ms=10, itl_ms=5, clock=clock)
    engine.add(request("a", max_tokens=6))
    clock.now += 0.0224  # due at 10, 15 and 20 ms
    (output,) = engine.step()
    assert output.token_ids == (1, 2, 3)
    assert engine.due_in_s() == pytest.approx(0.0026)


def test_no_delay_gives_one_token_a_step():
    engine = EchoEngine(clock=Clock())
    engine.add(request("a", max_tokens=2))
    assert [engine.step()[0].token_ids for _ in range(2)] == [(1,), (2,)]
    assert not engine.has_work()


def test_max_batch_queues_and_a_freed_slot_starts_at_its_deadline():
    clock = Clock()
    engine = EchoEngine(ttft_ms=10, itl_ms=5, max_batch=1, clock=clock)
    engine.add(request("a", max_tokens=2))
    engine.add(request("b", max_tokens=1))
    assert (engine.stats().running_requests, engine.stats().waiting_requests) == (1, 1)
    clock.now += 0.018  # "a" ended at 15 ms; the step comes late
    engine.step()
    assert engine.due_in_s() == pytest.approx(0.007)  # "b" began at 15 and is due at 25


@pytest.mark.parametrize("gone", ["a", "b"])
def test_abort_of_a_running_and_of_a_waiting_request(gone):
    clock = Clock()
    engine = EchoEngine(ttft_ms=10, itl_ms=5, max_batch=1, clock=clock)
    engine.add(request("a", max_tokens=2))
    engine.add(request("b", max_tokens=2))
    engine.abort(gone)
    engine.abort("never heard of")
    left = {"a": "b", "b": "a"}[gone]
    assert play(engine, clock) == [(10, left, (1,)), (15, left, (2,))]


def test_special_tokens_are_not_said():
    engine = EchoEngine(hidden={2}, filler=7, clock=Clock())
    engine.add(request("a", prompt=(2, 5), max_tokens=1))
    engine.add(request("b", prompt=(2, 2), max_tokens=1))
    assert [output.token_ids for output in engine.step()] == [(5,), (7,)]


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    batch=st.none() | st.integers(1, 3),
    waits=st.lists(st.floats(0, 0.05), min_size=1, max_size=40),
    aborted=st.sets(st.integers(0, 11)),
)
def test_every_request_gets_exactly_its_tokens_however_late_the_steps(
    lengths, batch, waits, aborted
):
    clock = Clock()
    engine = EchoEngine(ttft_ms=7, itl_ms=3, max_batch=batch, clock=clock)
    for name, length in enumerate(lengths):
        engine.add(request(str(name), max_tokens=length))
    for name in aborted:
        engine.abort(str(name))
    got = dict.fromkeys(range(len(lengths)), 0)
    for turn in range(10_000):
        if not engine.has_work():
            break
        clock.now += engine.due_in_s() + waits[turn % len(waits)]
        outputs = engine.step()
        assert outputs, "due, but nothing came"
        for output in outputs:
            got[int(output.request_id)] += len(output.token_ids)
        assert batch is None or engine.stats().running_requests <= batch
    expected = {n: 0 if n in aborted else length for n, length in enumerate(lengths)}
    assert got == expected
    assert engine.stats().generated_tokens_total == sum(expected.values())


def test_thousands_of_streams_keep_their_cadence():
    clock = Clock()
    engine = EchoEngine(ttft_ms=5, itl_ms=5, clock=clock)
    for name in range(3000):
        clock.now += 1e-6
        engine.add(request(str(name), max_tokens=3))
    seen = play(engine, clock)
    assert len(seen) == 9000
    assert max(at for at, _, _ in seen) < 5 + 10 + 3000 * 1e-3 + 0.01


@pytest.mark.parametrize(
    ("option", "value"), [("ttft_ms", -1.0), ("itl_ms", float("nan")), ("max_batch", 0)]
)
def test_wrong_options_are_named(option, value):
    with pytest.raises(UsageError, match=option):
        EchoEngine(**{option: value})


def test_the_plugin_registers_echo_for_any_model():
    (echo,) = enginebench_engines()
    assert echo.name == "echo" and echo.availability().ok
    model = ModelInfo("smollm2-135m", "gguf")
    assert echo.refuses(model, Hardware(gpus=(0,))) is None
    spec = EngineSpec("echo", "smollm2-135m", Hardware(), {"itl_ms": 2.5, "max_batch": 4})
    launch = echo.launch(spec, model, 8123)
    assert launch.argv[1:] == (
        *("-m", "enginebench_openai.echo", "--model", "smollm2-135m", "--port", "8123"),
        *("--served-model-name", "smollm2-135m", "--engine-restarts", "0"),
        *("--itl-ms=2.5", "--max-batch=4"),
    )


def test_a_remote_model_is_stood_in_for():
    spec = EngineSpec("echo", "remote:big", Hardware())
    launch = Echo().launch(spec, ModelInfo("remote:big", "remote"), 8123)
    assert "synthetic:tiny" in launch.argv and launch.model_name == "remote:big"


def test_the_real_process_serves_and_keeps_its_cadence():
    argv = [sys.executable, "-m", "enginebench_openai.echo", "--model", "synthetic:tiny"]
    argv += ["--port", "0", "--ttft-ms=50", "--itl-ms=10"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[2]
            body = {"model": "synthetic:tiny", "prompt": "abc", "max_tokens": 11}
            start = time.perf_counter()
            answer = http_post(f"{url}/v1/completions", json=body).json()
            took_s = time.perf_counter() - start
        finally:
            process.terminate()
        assert process.wait(20) == 0
    assert answer["choices"][0]["text"] == "abcabcabcab"
    assert took_s >= 0.15  # 50 ms and ten times 10 ms


def test_the_plugin_is_cheap_to_import():
    code = (
        "import sys, enginebench_openai.plugin\n"
        "heavy = {'torch', 'numba', 'locust', 'pandas', 'uvicorn', 'starlette', 'numpy'}\n"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
