"""How much a batch gains on the CPU: output tokens/s of `paged` at batch 1 and 16, taken in turn.

    python tests/benchmarks/paged_cpu.py [--model smollm2-135m] [--dtype auto] [--rounds 3]

The engine is driven in this process, without HTTP. Each round runs both batches, so that noise on the
machine hits both; the ratio of the medians is what to look at. Prompts are random and never repeat.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass

from enginebench_models import Model, open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.engine import PagedEngine


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each request."""

    prompt: int
    output: int


def tokens_per_s(engine: PagedEngine, model: Model, batch: int, lengths: Lengths) -> float:
    """Output tokens/s of `batch` requests that arrive together, prefill included."""
    last = model.info.ordinary_token_end or model.config.vocab_size
    for index in range(batch):
        prompt = tuple(
            random.randrange(model.info.first_ordinary_token, last) for _ in range(lengths.prompt)
        )
        sampling = SamplingParams(temperature=0.0)
        engine.add(GenerationRequest(str(index), prompt, lengths.output, sampling))
    start = time.perf_counter()
    produced = 0
    while engine.has_work():
        produced += sum(len(output.token_ids) for output in engine.step())
    assert produced == batch * lengths.output
    return produced / (time.perf_counter() - start)


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
    model = open_model(arguments.model)
    start = time.perf_counter()
    engine = PagedEngine(model, {"dtype": arguments.dtype})
    print(f"{arguments.model}, {engine.config.dtype}, loaded in {time.perf_counter() - start:.1f} s")
    rates: dict[int, list[float]] = {batch: [] for batch in arguments.batches}
    for _ in range(arguments.rounds):
        for batch, seen in rates.items():
            seen.append(tokens_per_s(engine, model, batch, lengths))
        print("  ".join(f"{batch}: {seen[-1]:6.1f} tok/s" for batch, seen in rates.items()))
    medians = {batch: statistics.median(seen) for batch, seen in rates.items()}
    least, most = min(medians), max(medians)
    print(f"median {medians}: batch {most} is {medians[most] / medians[least]:.2f}x batch {least}")
    engine.close()


if __name__ == "__main__":
    main()
