"""How much a batch gains on the CPU: output tokens/s of `paged` at batch 1 and 16, taken in turn.

    python tests/benchmarks/paged_cpu.py [--model smollm2-135m] [--dtype auto] [--rounds 3]

The engine is driven in this process, without HTTP. Each round runs both batches, so that noise on
the machine hits both; the ratio of the medians is what to look at. On a busy machine look at the
tokens per second of CPU time, which other processes disturb less. Prompts are random and never
repeat.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass

from enginebench_models import Model, open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams, TokenEngine
from enginebench_paged.threads import spin_briefly


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each request."""

    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Output tokens by the clock and by CPU time, prefill included."""

    per_s: float
    per_cpu_s: float


def measure(engine: TokenEngine, model: Model, batch: int, lengths: Lengths) -> Rate:
    """`batch` requests that arrive together."""
    last = model.info.ordinary_token_end or model.config.vocab_size
    for index in range(batch):
        prompt = tuple(
            random.randrange(model.info.first_ordinary_token, last) for _ in range(lengths.prompt)
        )
        sampling = SamplingParams(temperature=0.0)
        engine.add(GenerationRequest(str(index), prompt, lengths.output, sampling))
    start, cpu_start = time.perf_counter(), time.process_time()
    produced = 0
    while engine.has_work():
        produced += sum(len(output.token_ids) for output in engine.step())
    assert produced == batch * lengths.output
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Rate(produced / seconds, produced / cpu_seconds)


def _shown(rate: Rate) -> str:
    return f"{rate.per_s:6.1f} tok/s ({rate.per_cpu_s:6.1f} per CPU second)"


def _median(rates: list[Rate]) -> Rate:
    return Rate(
        statistics.median(rate.per_s for rate in rates),
        statistics.median(rate.per_cpu_s for rate in rates),
    )


def main() -> None:
    """Print a line for each round, then medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    arguments = parser.parse_args()
    lengths = Lengths(arguments.prompt_tokens, arguments.output_tokens)
    spin_briefly()
    from enginebench_paged.engine import PagedEngine  # imports torch

    model = open_model(arguments.model)
    start = time.perf_counter()
    engine = PagedEngine(model, {"dtype": arguments.dtype})
    loaded_s = time.perf_counter() - start
    print(f"{arguments.model}, {engine.config.dtype}, loaded in {loaded_s:.1f} s")
    rates: dict[int, list[Rate]] = {batch: [] for batch in arguments.batches}
    for _ in range(arguments.rounds):
        for batch, seen in rates.items():
            seen.append(measure(engine, model, batch, lengths))
        print("  ".join(f"{batch}: {_shown(seen[-1])}" for batch, seen in rates.items()))
    medians = {batch: _median(seen) for batch, seen in rates.items()}
    for batch, rate in medians.items():
        print(f"median of batch {batch}: {_shown(rate)}")
    few, many = medians[min(medians)], medians[max(medians)]
    print(
        f"batch {max(medians)} is {many.per_s / few.per_s:.2f}x batch {min(medians)}"
        f" by the clock, {many.per_cpu_s / few.per_cpu_s:.2f}x by CPU time"
    )
    engine.close()


if __name__ == "__main__":
    main()
