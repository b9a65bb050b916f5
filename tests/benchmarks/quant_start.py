"""How long `quant` takes from its process's start to the first token, and how much memory it holds.

    python tests/benchmarks/quant_start.py --model smollm2-135m --rounds 5
    python tests/benchmarks/quant_start.py --model 1b-q4_k.gguf --rounds 3

The server starts, is asked for one token as soon as it is ready, and then fills its whole context.
A first start, which may compile kernels, is not counted. Printed are medians: seconds until ready
and until the first token came over HTTP, CPU seconds by then (all that counts on a busy machine),
and the memory at the end beside file + KV cache + 10 % of both. Targets: 1.5 s, that much memory.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

from enginebench_models import Model, open_model

CONTEXT = 4096
MB = 1e6


@dataclass(frozen=True, slots=True)
class Start:
    """Of one process."""

    ready_s: float
    first_token_s: float
    cpu_s: float
    rss_bytes: int


def ask(url: str, prompt: list[int], tokens: int) -> None:
    body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()


def tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tree(pid))


def start(path: str, context: int, fill: bool) -> Start:
    """One server from its start to its end."""
    command = [sys.executable, "-m", "enginebench_quant.serve", "--model", path, "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--served-model-name", "m", "--context", str(context)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:2] == ["ready", "on"], f"the server did not start: {words}"
        ready = time.perf_counter()
        ask(words[2], [1, 2, 3, 4], 1)
        first, cpu_s = time.perf_counter(), cpu_seconds(process.pid)
        if fill:
            ask(words[2], [index % 500 for index in range(context - 64)], 63)
        rss = sum(each.memory_info().rss for each in tree(process.pid))
        process.send_signal(signal.SIGTERM)
    return Start(ready - began, first - began, cpu_s, rss)


def cache_bytes(model: Model, context: int) -> int:
    config = model.config
    return config.n_layers * config.n_kv_heads * config.head_dim * 2 * 2 * context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="a name, or a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=CONTEXT)
    chosen = parser.parse_args()
    model = open_model(chosen.model)
    path = model.info.path
    assert path is not None and Path(path).is_file(), "take a GGUF file: its size is the budget"
    context = min(chosen.context, model.config.context_length)
    start(path, context, fill=False)
    found = [start(path, context, fill=turn == 0) for turn in range(chosen.rounds)]
    size, cache = os.path.getsize(path), cache_bytes(model, context)
    budget = 1.1 * (size + cache)
    ready, first, cpu = (
        statistics.median(getattr(each, name) for each in found)
        for name in ("ready_s", "first_token_s", "cpu_s")
    )
    print(f"{chosen.model}: ready after {ready:.2f} s, first token after {first:.2f} s")
    print(f"CPU until then {cpu:.2f} s; load {os.getloadavg()[0]:.1f}")
    held = found[0].rss_bytes
    print(
        f"{held / MB:.0f} MB with a full cache; file {size / MB:.0f} + cache {cache / MB:.0f} MB "
        f"+ 10 % = {budget / MB:.0f}: {(held - budget) / MB:+.0f} MB; "
        f"beyond file and cache {(held - size - cache) / MB:.0f} MB"
    )


if __name__ == "__main__":
    main()
