"""`quant` against llama.cpp on this CPU: same GGUF, same prompts, same threads, in turn.

    python tests/benchmarks/quant_cpu.py --model smollm2-135m --threads 1,2 --rounds 7
    python tests/benchmarks/quant_cpu.py --prompt 128 --generated 32 --rounds 3 \\
        --model synthetic:llama-3.2-1b@q4_k,synthetic:llama-3.2-1b@q4_k_m

llama.cpp comes from PyPI's `xllamacpp` (pip install xllamacpp). Synthetic models are written to
GGUF files first. Each engine has a process of its own, idle while the other works, and so has a
loop that only reads memory; they alternate A B C and change who goes first. Printed are medians,
their ratio, and what decoding reads of the weights in its best round beside the best of the reader.

The wheels of xllamacpp are built for AVX2 (`xllamacpp.get_system_info()` tells): on a CPU with
AVX-512, `--cpu-level avx2` compares like with like.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

READ_BYTES = 1 << 29


@dataclass(frozen=True, slots=True)
class Load:
    """What each engine is asked: one request of `prompt` random tokens, `generated` more."""

    path: str
    threads: int
    prompt: int
    generated: int
    level: str

    @property
    def context(self) -> int:
        return self.prompt + self.generated + 64


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one request: prompt tokens and generated tokens a second; of the reader: GB/s, twice."""

    prefill: float
    decode: float


Serve = Callable[[list[int]], Timing]


def quant_arm(load: Load) -> Serve:
    """The engine without the server, stepped as the server would."""
    from enginebench_models import open_model
    from enginebench_openai.protocol import GenerationRequest, SamplingParams
    from enginebench_quant.engine import QuantEngine
    from enginebench_quant.load import load_model
    from enginebench_quant.options import QuantOptions

    chosen = {"threads": load.threads, "context": load.context, "cpu_level": load.level}
    model = open_model(load.path)
    options = QuantOptions.resolve(chosen, model.config)
    runner = load_model(model, options, log=lambda line: print(line, file=sys.stderr))
    engine = QuantEngine(runner, context=load.context, prompt_cache=False)

    def serve(prompt: list[int]) -> Timing:
        greedy = SamplingParams(temperature=0)
        engine.add(GenerationRequest("r", tuple(prompt), load.generated, greedy))
        start = time.perf_counter()
        while not engine.step():
            pass
        first = time.perf_counter()
        while engine.has_work():
            engine.step()
        end = time.perf_counter()
        return Timing(len(prompt) / (first - start), (load.generated - 1) / (end - first))

    return serve


def llamacpp_arm(load: Load) -> Serve:
    """llama.cpp in this process; the timings are its own."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = load.path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = load.context, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = load.threads
    params.cache_prompt, params.warmup = False, True
    server = xllamacpp.Server(params)

    def serve(prompt: list[int]) -> Timing:
        body = {
            "prompt": prompt,
            "n_predict": load.generated,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer: dict[str, Any] = server.handle_completions(body)
        timings = answer["timings"]
        assert timings["prompt_n"] == len(prompt) and timings["predicted_n"] == load.generated
        return Timing(timings["prompt_per_second"], timings["predicted_per_second"])

    return serve


def read_arm(load: Load) -> Serve:
    """Sums of integers, which wait for memory alone: each thread reads its share."""
    import numba

    @numba.njit("int64(int64[::1])", nogil=True, boundscheck=False)  # type: ignore[untyped-decorator]
    def total(values: Any) -> int:
        found = 0
        for value in values:
            found += value
        return found

    shares = np.array_split(np.arange(READ_BYTES // 8, dtype=np.int64), load.threads)
    pool = ThreadPoolExecutor(load.threads)

    def serve(prompt: list[int]) -> Timing:
        start = time.perf_counter()
        for _ in range(2):
            list(pool.map(total, shares))
        gb_s = 2 * READ_BYTES / (time.perf_counter() - start) / 1e9
        return Timing(gb_s, gb_s)

    return serve


ARMS = {"quant": quant_arm, "llamacpp": llamacpp_arm, "read": read_arm}


def work(arm: str, load: Load) -> None:
    """A process's loop: a prompt a line in, a timing a line out."""
    serve = ARMS[arm](load)
    out = os.fdopen(os.dup(1), "w")  # libraries that print to stdout must not disturb it
    os.dup2(2, 1)
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(serve(json.loads(line)))), file=out, flush=True)


class Worker:
    """One engine in its own process."""

    def __init__(self, arm: str, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", json.dumps([arm, asdict(load)])],
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


def measure(load: Load, rounds: int) -> dict[str, list[Timing]]:
    """Timings by arm, one a round; the first round warms up."""
    random = np.random.default_rng(0)
    workers: dict[str, Worker] = {}
    found: dict[str, list[Timing]] = {arm: [] for arm in ARMS}
    try:
        for arm in ARMS:
            workers[arm] = Worker(arm, load)
        for turn in range(rounds + 1):
            prompt = random.integers(100, 30_000, load.prompt).tolist()
            for arm in list(ARMS) if turn % 2 else list(ARMS)[::-1]:
                timing = workers[arm].serve(prompt)
                if turn:
                    found[arm].append(timing)
    finally:
        for worker in workers.values():
            worker.close()
    return found


def bytes_per_token(path: str) -> int:
    """Of the file's matrices, those that a step of decoding reads."""
    from enginebench_models import open_model

    model = open_model(path)
    skipped = () if model.config.tie_word_embeddings else ("token_embd.weight",)
    return sum(t.size_bytes for t in model.weights.values() if t.name not in skipped)


def report(name: str, load: Load, found: dict[str, list[Timing]]) -> None:
    def all_of(arm: str, phase: str) -> list[float]:
        return [getattr(timing, phase) for timing in found[arm]]

    for phase in ("prefill", "decode"):
        ours, theirs = (statistics.median(all_of(arm, phase)) for arm in ("quant", "llamacpp"))
        line = f"{name:32} {load.threads:7} {phase:8}"
        line += f" {ours:11.1f} {theirs:15.1f} {ours / theirs:6.2f}x"
        if phase == "decode":
            gb_s = max(all_of("quant", phase)) * bytes_per_token(load.path) / 1e9
            most = max(all_of("read", phase))
            line += f"  {gb_s:5.1f} of {most:5.1f} GB/s ({gb_s / most:.0%})"
        print(f"{line}  load {os.getloadavg()[0]:.1f}", flush=True)


def gguf_path(name: str, folder: Path) -> str:
    """The model's GGUF file; one is written for a synthetic model."""
    from enginebench_models import open_model
    from enginebench_models.synthetic_files import write_synthetic_gguf

    if name.startswith("synthetic:"):
        path = folder / f"{name.partition(':')[2]}.gguf"
        if not path.exists():
            write_synthetic_gguf(name, path)
        return str(path)
    found = open_model(name).info.path
    assert found is not None and Path(found).is_file(), "llama.cpp needs a GGUF file"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m", help="names or GGUF files, with commas")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generated", type=int, default=128)
    parser.add_argument("--cpu-level", default="auto")
    parser.add_argument(
        "--folder", type=Path, help="where synthetic files are kept (None: nowhere)"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        arm, load = json.loads(chosen.work)
        work(arm, Load(**load))
        return
    print("model                            threads phase    quant tok/s llama.cpp tok/s   ratio")
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen.model.split(","):
            path = gguf_path(name, chosen.folder or Path(temporary))
            for threads in map(int, chosen.threads.split(",")):
                load = Load(path, threads, chosen.prompt, chosen.generated, chosen.cpu_level)
                report(name, load, measure(load, chosen.rounds))


if __name__ == "__main__":
    main()
