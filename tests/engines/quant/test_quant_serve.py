"""The engine as a process behind its server: it answers, refuses what cannot be, stays small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from enginebench_models import open_model

pytestmark = pytest.mark.slow
MB = 1_000_000


def command(model: Path, *flags: str) -> list[str]:
    argv = [sys.executable, "-m", "enginebench_quant.serve", "--model", str(model), "--port", "0"]
    return [*argv, "--served-model-name", "m", *flags]


@contextmanager
def serving(model: Path, *flags: str) -> Iterator[tuple[str, int]]:
    """The server's base URL and pid; it must end with code 0 when told to."""
    with subprocess.Popen(command(model, *flags), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:2] == ["ready", "on"], words
            yield words[2], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
    assert code == 0


def complete(url: str, prompt: list[int], max_tokens: int = 8) -> dict[str, Any]:
    body = {
        "model": "m",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_answers_and_reuses_a_shared_prompt(tiny_gguf: Callable[..., Path]) -> None:
    prompt = list(range(100, 160))
    with serving(tiny_gguf("q4_1"), "--threads", "2") as (url, _):
        first, second = complete(url, prompt), complete(url, prompt)
    with serving(tiny_gguf("q4_1"), "--threads", "1", "--no-prompt-cache") as (url, _):
        third = complete(url, prompt)
    assert first["usage"]["prompt_tokens"] == 60 and first["usage"]["completion_tokens"] == 8
    cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in (first, second, third)]
    assert cached == [0, 59, 0]
    texts = {answer["choices"][0]["text"] for answer in (first, second, third)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--context", "100000"], "context 100000 is above the model's context of 512"),
        (["--threads", "0"], "threads must be 1 or more; got 0"),
        (["--cpu-level", "sse9"], "invalid choice: 'sse9'"),
    ],
)
def test_impossible_options_end_with_code_2(
    tiny_gguf: Callable[..., Path], flags: list[str], words: str
) -> None:
    ended = subprocess.run(command(tiny_gguf("q4_1"), *flags), capture_output=True, text=True)
    assert ended.returncode == 2
    assert words in ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted as Linux does")
def test_memory_is_the_file_the_cache_and_125_mb(smollm2_path: Path) -> None:
    """Of the cache what was used: a part of the default context."""
    config = open_model(str(smollm2_path)).config
    position_bytes = config.n_layers * config.n_kv_heads * config.head_dim * 2 * 2
    with serving(smollm2_path):  # compiles, which may take more
        pass
    with serving(smollm2_path) as (url, pid):
        complete(url, list(range(500, 2300)), max_tokens=100)
        resident = psutil.Process(pid).memory_info().rss
    assert resident < os.path.getsize(smollm2_path) + 1900 * position_bytes + 125 * MB
