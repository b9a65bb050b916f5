"""What two busy processes beside it leave of `quant`'s decode speed: at least 40 % is asked for.

    python tests/benchmarks/quant_contention.py --model smollm2-135m --threads 2 --rounds 5

Rounds alternate between a machine that does nothing else and one with `--busy` processes that never
rest. Printed are medians and their ratio, and what a fair scheduler would leave: threads that share
the cores with as many others. It means nothing unless the machine is idle but for this script.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from enginebench_models import open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_quant.engine import QuantEngine
from enginebench_quant.load import load_engine
from enginebench_quant.options import QuantOptions

SPIN = "while True: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that each want a core."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def decode_rate(engine: QuantEngine, tokens: int) -> float:
    """Tokens a second after the first."""
    greedy = SamplingParams(temperature=0)
    engine.add(GenerationRequest("r", (1, 2, 3, 4), tokens, greedy))
    while not any(output.token_ids for output in engine.step()):
        pass
    started = time.perf_counter()
    while engine.has_work():
        engine.step()
    return (tokens - 1) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--busy", type=int, default=2)
    chosen = parser.parse_args()
    model = open_model(chosen.model)
    options = QuantOptions.resolve({"threads": chosen.threads, "context": 1024}, model.config)
    engine = load_engine(model, options, log=lambda line: print(line, file=sys.stderr))
    decode_rate(engine, chosen.tokens)
    alone, crowded = [], []
    for _ in range(chosen.rounds):
        alone.append(decode_rate(engine, chosen.tokens))
        with busy(chosen.busy):
            crowded.append(decode_rate(engine, chosen.tokens))
    engine.close()
    idle, beside = statistics.median(alone), statistics.median(crowded)
    cores = len(os.sched_getaffinity(0))
    fair = min(1.0, cores / (chosen.threads + chosen.busy))
    print(f"{chosen.model}, {chosen.threads} threads on {cores} cores: {idle:.1f} tokens/s alone,")
    print(f"{beside:.1f} beside {chosen.busy} busy processes: {beside / idle:.0%}")
    print(f"(a fair share of the cores would be {fair:.0%}; load {os.getloadavg()[0]:.1f})")


if __name__ == "__main__":
    main()
