"""Several ranks behind the real server: answers, a rank that dies, and the end of all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from tiny_references import drain, greedy, tokens_of

from enginebench_models import open_model
from enginebench_paged.engine import PagedEngine

PROMPT = tuple(range(5, 45))
TOKENS = 12
FOLLOWER = "enginebench_paged.parallel.follower"
SERVE = ("-m", "enginebench_paged.serve", "--port", "0", "--served-model-name", "tiny")
OPTIONS = ("--dtype=f32", "--max-batch=4", "--step-tokens=24", "--kv-memory-gb=0.01")


@contextmanager
def server(*command: str, gpus: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of CPU processes (or of one on each of `gpus`), and its address."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready on "):
                yield process, line.split()[2]
                return
        _, said = process.communicate()
        raise AssertionError(f"the server has ended with {process.returncode}: {said}")
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate()


def ask(url: str) -> httpx.Response:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=30)


def text_of(url: str) -> str:
    answer = ask(url)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def expected_text(path: Path) -> str:
    model = open_model(str(path))
    engine = PagedEngine(model, {"dtype": "f32", "max_batch": 4, "kv_memory_gb": 0.01})
    engine.add(greedy("a", PROMPT, TOKENS))
    return model.tokenizer.decode(list(tokens_of(drain(engine)["a"])))


def followers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    below = psutil.Process(process.pid).children(recursive=True)
    return [each for each in below if each.is_running() and FOLLOWER in each.cmdline()]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.05)


@pytest.mark.usefixtures("on_the_cpu")
def test_ranks_answer_as_one_and_are_built_again_when_one_dies(
    tiny_hf: Callable[..., Path],
) -> None:
    path = tiny_hf("f32")
    expected = expected_text(path)
    arguments = (*SERVE, "--model", str(path), "--tensor-parallel=2", *OPTIONS)
    with server(sys.executable, *arguments) as (process, url):
        assert text_of(url) == expected
        (follower,) = followers(process)
        follower.kill()
        until(lambda: httpx.get(f"{url}/health").json() == {"status": "restarting"})
        until(lambda: httpx.get(f"{url}/health").status_code == 200)
        assert text_of(url) == expected
        metrics = httpx.get(f"{url}/metrics").text
        assert 'enginebench:engine_restarts_total{model="tiny"} 1.0' in metrics
        assert f"enginebench:generation_tokens_total {2 * TOKENS}.0" in metrics
        (follower,) = followers(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        until(lambda: not follower.is_running())


@pytest.mark.slow
def test_ranks_end_with_a_server_that_is_killed(tiny_hf: Callable[..., Path]) -> None:
    arguments = (*SERVE, "--model", str(tiny_hf("f32")), "--tensor-parallel=2", *OPTIONS)
    with server(sys.executable, *arguments) as (process, _):
        (follower,) = followers(process)
        process.kill()
        until(lambda: not follower.is_running())


@pytest.mark.slow
@pytest.mark.usefixtures("on_the_cpu")
def test_ranks_that_torchrun_starts(tiny_hf: Callable[..., Path]) -> None:
    path = tiny_hf("f32")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    with server(sys.executable, *torchrun, *SERVE, "--model", str(path), *OPTIONS) as (
        process,
        url,
    ):
        assert text_of(url) == expected_text(path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0  # torchrun calls any signal a failure
        until(lambda: not psutil.Process().children(recursive=True))


@pytest.mark.slow
@pytest.mark.usefixtures("on_the_cpu")
def test_replicas_of_ranks_answer_alike(tiny_hf: Callable[..., Path]) -> None:
    path = tiny_hf("f32")
    more = ("--replicas=2", "--tensor-parallel=2", *OPTIONS)
    with server(sys.executable, *SERVE, "--model", str(path), *more) as (process, url):
        assert len(followers(process)) == 2
        assert {text_of(url) for _ in range(4)} == {expected_text(path)}


def test_a_model_that_cannot_be_cut_is_one_line(tiny_hf: Callable[..., Path]) -> None:
    arguments = (*SERVE, "--model", str(tiny_hf("f32")), "--tensor-parallel=3")
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=env, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "cannot run with tensor_parallel=3: its 4 heads cannot be dealt evenly;"
        " tensor_parallel may be 1, 2, 4"
    )


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_answer_as_one(tiny_hf: Callable[..., Path]) -> None:
    """Over NCCL, inside CUDA graphs."""
    arguments = (sys.executable, *SERVE, "--model", str(tiny_hf("f32")), *OPTIONS)
    with server(*arguments, gpus="0") as (_, url):
        expected = text_of(url)
    with server(*arguments, "--tensor-parallel=2", gpus="0,1") as (process, url):
        assert len(followers(process)) == 1
        assert text_of(url) == expected
