"""The paged engine alone, without HTTP, on this GPU: what the server could give at most.

    PYTHONPATH=engines:harness python3 tests/benchmarks/gpu_engine.py --model synthetic:qwen2.5-3b

For each batch size: a closed batch of prompts, all at once, until the last token. Prints the time
to the first step that only decodes, the median step of the decoding, how long the host needed for
it (where the two agree, the GPU waited for the host), and tokens a second over all.
"""

import argparse
import cProfile
import pstats
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from enginebench.types import OptionValue
from enginebench_models import open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.engine import PagedEngine
from enginebench_paged.runner import Launched


@dataclass
class Times:
    """Of the steps that gave every sequence a token."""

    steps_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    prefill_s: float = 0.0
    total_s: float = 0.0


def timed_waits(waits: list[float]) -> None:
    """From now on `Launched.wait` notes how long the host stood still for the GPU."""
    wait = Launched.wait

    def timed(self: Launched) -> list[int]:
        began = time.perf_counter()
        ids = wait(self)
        waits.append(time.perf_counter() - began)
        return ids

    Launched.wait = timed  # type: ignore[method-assign]


@contextmanager
def recorded_kernels() -> Iterator[None]:
    """Prints the kernels that took most of the GPU's time, and how often each ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        yield
    rows = sorted(profile.key_averages(), key=lambda row: -row.device_time_total)
    total_us = sum(row.device_time_total for row in rows)
    print(f"  {total_us / 1e6:.3f} s of kernels")
    for row in rows[:24]:
        share = 100 * row.device_time_total / total_us
        each_us = row.device_time_total / row.count
        print(f"  {share:5.1f}%  {row.count:6} x {each_us:8.1f} us  {row.key[:110]}")


def requests(count: int, prompt: int, output: int, vocab_size: int) -> list[GenerationRequest]:
    draw = random.Random(count)
    return [
        GenerationRequest(
            f"{count}-{index}",
            tuple(draw.randrange(vocab_size // 8, vocab_size) for _ in range(prompt)),
            output,
            SamplingParams(temperature=0.0),
        )
        for index in range(count)
    ]


def run(engine: PagedEngine, work: list[GenerationRequest], waits: list[float]) -> Times:
    times, began = Times(), time.perf_counter()
    for request in work:
        engine.add(request)
    while engine.has_work():
        waits.clear()
        before = time.perf_counter()
        given = len(engine.step())
        now = time.perf_counter()
        if given == len(work):
            times.prefill_s = times.prefill_s or before - began
            times.steps_s.append(now - before)
            times.waits_s.append(sum(waits))
    times.total_s = time.perf_counter() - began
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="synthetic:qwen2.5-3b")
    parser.add_argument("--batches", default="1,16,64,256")
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--step-tokens", type=int)
    parser.add_argument("--off", default="", help="options to turn off, by comma")
    parser.add_argument("--profile", type=int, help="of the host, at this batch size")
    parser.add_argument("--kernels", type=int, help="what the GPU does, at this batch size")
    options = parser.parse_args()
    began = time.perf_counter()
    model = open_model(options.model)
    settings: dict[str, OptionValue] = {"prefix_cache": False}
    settings |= {name: False for name in options.off.split(",") if name}
    if options.step_tokens:
        settings["step_tokens"] = options.step_tokens
    engine = PagedEngine(model, settings)
    print(f"{options.model}: built in {time.perf_counter() - began:.1f} s", flush=True)
    waits: list[float] = []
    timed_waits(waits)
    size = (options.input_tokens, options.output_tokens, model.config.vocab_size)
    run(engine, requests(2, *size), waits)
    for batch in map(int, options.batches.split(",")):
        profile = cProfile.Profile()
        if batch == options.profile:
            profile.enable()
        with recorded_kernels() if batch == options.kernels else nullcontext():
            times = run(engine, requests(batch, *size), waits)
        profile.disable()
        step, wait = statistics.median(times.steps_s), statistics.median(times.waits_s)
        print(
            f"  batch {batch:3}: prefill {times.prefill_s * 1e3:6.0f} ms, step {step * 1e3:6.3f} ms"
            f" (host {1e3 * (step - wait):5.3f}), {batch * size[1] / times.total_s:7.0f} tok/s",
            flush=True,
        )
        if batch == options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
    engine.close()


if __name__ == "__main__":
    main()
