"""The two TokenEngines over transformers, driven step by step with a stand-in for the model."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from enginebench_openai.protocol import GenerationRequest, SamplingParams, TokenEngine, TokenOutput

pytestmark = [pytest.mark.peer, pytest.mark.slow]
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module", autouse=True)
def torch() -> Any:
    pytest.importorskip("transformers", reason='pip install "enginebench[peers]"')
    return pytest.importorskip("torch", reason='pip install "enginebench[peers]"')


def request(name: str, max_tokens: int, stop: Sequence[int] = ()) -> GenerationRequest:
    return GenerationRequest(name, (7, 8), max_tokens, GREEDY, frozenset(stop))


def run(engine: TokenEngine) -> dict[str, list[TokenOutput]]:
    """Step until nothing is left to do."""
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work():
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def said(outputs: Sequence[TokenOutput]) -> tuple[list[int], str | None]:
    return [token for each in outputs for token in each.token_ids], outputs[-1].finish_reason


# ---------------------------------------------------------------- generate


class CountingModel:
    """Says 1, 2, 3 ... as generate would, up to what was asked."""

    device = "cpu"

    def __init__(self, after: Callable[[int], None] = lambda token: None) -> None:
        self.generation_config: Any = None
        self._after = after

    def generate(self, prompt: Any, **how: Any) -> None:
        import torch

        streamer, config = how["streamer"], how["generation_config"]
        streamer.put(prompt)
        for token in range(1, config.max_new_tokens + 1):
            streamer.put(torch.tensor([token]))
            self._after(token)
            if bool(how["stopping_criteria"](prompt, None)) or token in (config.eos_token_id or ()):
                break
        streamer.end()


def generating(model: CountingModel) -> Any:
    from enginebench_peers.transformers_generate import GenerateEngine

    return GenerateEngine(model, context_length=100)


def test_generate_answers_one_after_the_other() -> None:
    engine = generating(CountingModel())
    engine.add(request("a", 3))
    engine.add(request("b", 2))
    outputs = run(engine)
    assert said(outputs["a"]) == ([1, 2, 3], "length")
    assert said(outputs["b"]) == ([1, 2], "length")
    stats = engine.stats()
    assert (stats.prompt_tokens_total, stats.generated_tokens_total) == (4, 5)
    assert (stats.running_requests, stats.waiting_requests) == (0, 0)
    engine.close()


def test_generate_ends_before_a_stop_token() -> None:
    engine = generating(CountingModel())
    engine.add(request("a", 9, stop=[3]))
    assert said(run(engine)["a"]) == ([1, 2], "stop")
    engine.close()


@pytest.mark.parametrize("at", [2, 5])
def test_an_aborted_answer_leaves_the_next_one_alone(at: int) -> None:
    """At 2 generate is stopped half-way; at 5 it has just said its last token."""
    model = CountingModel()
    engine = generating(model)
    model._after = lambda token: engine.abort("a") if token == at else None
    engine.add(request("a", 5))
    engine.add(request("b", 2))
    outputs = run(engine)
    assert said(outputs["b"]) == ([1, 2], "length")
    assert len(said(outputs.get("a", [TokenOutput("a", ())]))[0]) <= at
    engine.close()


def test_a_waiting_request_is_forgotten() -> None:
    engine = generating(CountingModel())
    engine.add(request("a", 1))
    engine.add(request("b", 1))
    engine.abort("b")
    assert run(engine).keys() == {"a"}
    engine.close()


def test_what_generate_raises_ends_the_engine() -> None:
    def fail(token: int) -> None:
        raise MemoryError("no room")

    engine = generating(CountingModel(fail))
    engine.add(request("a", 5))
    with pytest.raises(MemoryError, match="no room"):
        run(engine)


# ---------------------------------------------------------------- continuous batching


@dataclass
class Result:
    request_id: str
    generated_tokens: list[int]
    finished: bool = False
    error: str | None = None

    def is_finished(self) -> bool:
        return self.finished


@dataclass
class Manager:
    """Takes requests, and hands out the results that a test puts in."""

    results: queue.SimpleQueue[Result] = field(default_factory=queue.SimpleQueue)
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    alive: bool = True

    def add_request(self, prompt: list[int], *, request_id: str, **how: Any) -> None:
        self.requests[request_id] = {"prompt": prompt, **how}

    def cancel_request(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def is_running(self) -> bool:
        return self.alive

    def get_result(self, timeout: float) -> Result | None:
        try:
            return self.results.get(timeout=timeout)
        except queue.Empty:
            return None

    def give(self, *results: Result) -> None:
        for result in results:
            self.results.put(result)


def batching(manager: Manager) -> Any:
    from enginebench_peers.transformers_batching import BatchingEngine

    return BatchingEngine(manager, context_length=100, parallel=1)


def test_cumulative_results_become_new_tokens() -> None:
    manager = Manager()
    engine = batching(manager)
    engine.add(request("a", 3))
    engine.add(request("b", 9, stop=[5]))
    assert manager.requests["a"]["eos_token_id"] == -1
    assert manager.requests["b"]["eos_token_id"] == [5]
    assert (engine.stats().running_requests, engine.stats().waiting_requests) == (1, 1)
    manager.give(
        Result("a", [1]),
        Result("b", [4]),
        Result("a", [1, 2]),
        Result("a", [1, 2, 3], finished=True),
        Result("b", [4, 5], finished=True),
    )
    outputs = run(engine)
    assert said(outputs["a"]) == ([1, 2, 3], "length")
    assert said(outputs["b"]) == ([4], "stop")
    assert engine.stats().generated_tokens_total == 4


def test_a_cancelled_request_says_no_more() -> None:
    manager = Manager()
    engine = batching(manager)
    engine.add(request("a", 3))
    engine.abort("a")
    engine.abort("never heard of")
    assert manager.cancelled == ["a"]
    manager.give(Result("a", [1]))
    assert not engine.has_work()
    assert engine.step() == []


def test_a_request_that_failed_there_fails_here() -> None:
    manager = Manager()
    engine = batching(manager)
    engine.add(request("a", 3))
    manager.give(Result("a", [], finished=True, error="out of blocks"))
    [output] = run(engine)["a"]
    assert (output.finish_reason, output.error) == ("error", "out of blocks")


def test_a_manager_that_ended_ends_the_engine() -> None:
    manager = Manager(alive=False)
    engine = batching(manager)
    engine.add(request("a", 3))
    with pytest.raises(RuntimeError, match="its log says why"):
        run(engine)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0, repetition_penalty=1.1)]
)
def test_only_greedy_decoding(sampling: SamplingParams) -> None:
    with pytest.raises(ValueError, match="decodes greedily"):
        batching(Manager()).add(GenerationRequest("a", (1,), 1, sampling))
