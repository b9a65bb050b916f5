"""`quant` against llama.cpp on this CPU: same GGUF, same prompts, same threads, in turn.

    python tests/benchmarks/quant_cpu.py --model smollm2-135m --threads 1,2 --rounds 7

llama.cpp comes from PyPI's `xllamacpp` (pip install xllamacpp). Each engine has a process of its
own, idle while the other works; they alternate A B A B and swap who goes first. Printed are medians
and the ratio of medians: prefill of 512 tokens, decode of 128 after it, and decode of 128 after 8.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

LONG_PROMPT, SHORT_PROMPT, GENERATED, CONTEXT = 512, 8, 128, 1024


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one request: prompt tokens and generated tokens a second."""

    prefill_tok_s: float
    decode_tok_s: float


Serve = Callable[[list[int]], Timing]


def quant_arm(path: str, threads: int, level: str) -> Serve:
    """The engine without the server, stepped as the server would."""
    from enginebench_models import open_model
    from enginebench_openai.protocol import GenerationRequest, SamplingParams
    from enginebench_quant.engine import QuantEngine
    from enginebench_quant.load import load_model
    from enginebench_quant.options import QuantOptions

    chosen = {"threads": threads, "context": CONTEXT, "cpu_level": level, "prompt_cache": False}
    model = open_model(path)
    options = QuantOptions.resolve(chosen, model.config)
    runner = load_model(model, options, log=lambda line: print(line, file=sys.stderr))
    engine = QuantEngine(runner, context=CONTEXT, prompt_cache=False)

    def serve(prompt: list[int]) -> Timing:
        greedy = SamplingParams(temperature=0)
        engine.add(GenerationRequest("r", tuple(prompt), GENERATED, greedy))
        start = time.perf_counter()
        while not engine.step():
            pass
        first = time.perf_counter()
        while engine.has_work():
            engine.step()
        end = time.perf_counter()
        return Timing(len(prompt) / (first - start), (GENERATED - 1) / (end - first))

    return serve


def llamacpp_arm(path: str, threads: int, level: str) -> Serve:
    """llama.cpp in this process; the timings are its own."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = CONTEXT, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_prompt, params.warmup = False, True
    server = xllamacpp.Server(params)

    def serve(prompt: list[int]) -> Timing:
        body = {
            "prompt": prompt,
            "n_predict": GENERATED,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer: dict[str, Any] = server.handle_completions(body)
        timings = answer["timings"]
        assert timings["prompt_n"] == len(prompt) and timings["predicted_n"] == GENERATED
        return Timing(timings["prompt_per_second"], timings["predicted_per_second"])

    return serve


ARMS = {"quant": quant_arm, "llamacpp": llamacpp_arm}


def work(arm: str, path: str, threads: int, level: str) -> None:
    """A process's loop: a prompt a line in, a timing a line out."""
    serve = ARMS[arm](path, threads, level)
    out = os.fdopen(os.dup(1), "w")  # libraries that print to stdout must not disturb it
    os.dup2(2, 1)
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(serve(json.loads(line)))), file=out, flush=True)


class Worker:
    """One engine in its own process."""

    def __init__(self, arm: str, path: str, threads: int, level: str) -> None:
        argv = [sys.executable, __file__, "--arm", arm, "--model", path]
        argv += ["--threads", str(threads), "--cpu-level", level]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        ready = self._read()
        assert ready == "ready", f"{arm} did not start: {ready!r}"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def serve(self, prompt: list[int]) -> Timing:
        assert self._process.stdin is not None
        print(json.dumps(prompt), file=self._process.stdin, flush=True)
        return Timing(**json.loads(self._read()))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def measure(path: str, threads: int, level: str, rounds: int) -> dict[str, list[list[Timing]]]:
    """Timings by arm: for each round those of the long and of the short prompt."""
    random = np.random.default_rng(0)
    workers = {arm: Worker(arm, path, threads, level) for arm in ARMS}
    found: dict[str, list[list[Timing]]] = {arm: [] for arm in ARMS}
    try:
        for turn in range(rounds + 1):
            prompts = [
                random.integers(100, 30_000, n).tolist() for n in (LONG_PROMPT, SHORT_PROMPT)
            ]
            for arm in list(ARMS) if turn % 2 else list(ARMS)[::-1]:
                timings = [workers[arm].serve(prompt) for prompt in prompts]
                if turn:  # the first round warms up
                    found[arm].append(timings)
    finally:
        for worker in workers.values():
            worker.close()
    return found


def report(threads: int, found: dict[str, list[list[Timing]]]) -> None:
    rows: Sequence[tuple[str, Callable[[list[Timing]], float]]] = (
        (f"prefill {LONG_PROMPT}", lambda t: t[0].prefill_tok_s),
        (f"decode {GENERATED} after {LONG_PROMPT}", lambda t: t[0].decode_tok_s),
        (f"decode {GENERATED} after {SHORT_PROMPT}", lambda t: t[1].decode_tok_s),
    )
    for name, read in rows:
        ours, theirs = (statistics.median(read(t) for t in found[arm]) for arm in ARMS)
        ratio = f"{ours / theirs:5.2f}x"
        print(f"{threads:7}  {name:22} {ours:9.1f} {theirs:12.1f}  {ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m", help="GGUF file or registry name")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-level", default="auto")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        work(arguments.arm, arguments.model, int(arguments.threads), arguments.cpu_level)
        return
    from enginebench_models import open_model

    path = open_model(arguments.model).info.path
    assert path is not None and Path(path).is_file(), "llama.cpp needs a GGUF file"
    print("threads  what                   quant tok/s  llama.cpp tok/s  ratio of medians")
    for threads in map(int, arguments.threads.split(",")):
        report(threads, measure(path, threads, arguments.cpu_level, arguments.rounds))


if __name__ == "__main__":
    main()
