"""When guessing tokens pays: what verifying n tokens costs, in tokens decoded one by one.

    python tests/benchmarks/quant_speculation.py --model smollm2-135m --threads 2
    python tests/benchmarks/quant_speculation.py --model synthetic:llama-3.2-1b@q4_k --threads 1

A pass over n tokens that costs c of a decoded one pays from c accepted tokens a pass on, the one
that every pass gives included. Passes of all sizes take turns; printed are medians of the rounds.
With --draft MODEL it also says what a guess of that model costs.

    python tests/benchmarks/quant_speculation.py --model smollm2-135m --answer prompt.txt

times greedy answers to a prompt instead, with and without --draft (a model, or ngram), in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from enginebench.types import OptionValue
from enginebench_models import open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_quant.load import load_engine, load_model
from enginebench_quant.model import MAX_VERIFIED_TOKENS, QuantModel
from enginebench_quant.options import QuantOptions

POSITION = 200
ANSWER_TOKENS = 200
SIZES = (2, 3, 4, 5, 6, 8)


def log(message: str) -> None:
    print(message, file=sys.stderr)


def load(name: str, threads: int) -> QuantModel:
    model = open_model(name)
    options = QuantOptions.resolve({"threads": threads, "context": 512}, model.config)
    runner = load_model(model, options, log=log)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, POSITION).tolist()
    for start in range(0, POSITION, 100):
        runner.forward(tokens[start : start + 100], start, want_logits=False)
    return runner


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def answers(model_name: str, draft: str, threads: int, text: str, rounds: int) -> None:
    """Tokens a second with and without guesses, and whether the answers are the same."""
    model = open_model(model_name)
    prompt = tuple(model.tokenizer.encode(text))
    chosen: dict[str, OptionValue] = {"threads": threads, "prompt_cache": False}
    plain = QuantOptions.resolve(chosen, model.config)
    guessing = QuantOptions.resolve(chosen | {"draft": draft}, model.config)
    engines = {name: load_engine(model, options, log=log)
               for name, options in (("alone", plain), (draft, guessing))}  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in engines}
    said: dict[str, list[int]] = {}
    for _ in range(rounds):
        for name, engine in engines.items():
            engine.add(GenerationRequest("a", prompt, ANSWER_TOKENS, SamplingParams(temperature=0)))
            said[name], passes, started = [], 0, 0.0
            while engine.has_work():
                for output in engine.step():
                    started = started or time.perf_counter()
                    said[name] += output.token_ids
                    passes += 1
            rates[name].append((ANSWER_TOKENS - 1) / (time.perf_counter() - started))
        print(f"{name}: {ANSWER_TOKENS / passes:.2f} tokens a pass", file=sys.stderr)
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):.1f} tokens/s")
    print("same answer" if len({tuple(tokens) for tokens in said.values()}) == 1 else "DIFFERENT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--draft")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--answer", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    if chosen.answer:
        text = chosen.answer.read_text()
        answers(chosen.model, chosen.draft or "ngram", chosen.threads, text, chosen.rounds)
        return
    runner = load(chosen.model, chosen.threads)
    runner.prepare_rows()
    guess = list(range(5, 5 + MAX_VERIFIED_TOKENS))
    work: dict[str, Callable[[], object]] = {
        "1": lambda: runner.forward(guess[:1], POSITION),
        **{
            str(size): lambda size=size: runner.forward_rows(guess[:size], POSITION)  # type: ignore[misc]
            for size in SIZES
        },
    }
    if chosen.draft:
        draft = load(chosen.draft, chosen.threads)
        work["draft"] = lambda: draft.forward(guess[:1], POSITION)
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(chosen.rounds + 1):
        for name, function in work.items():
            times[name].append(seconds(function))
    one = statistics.median(times["1"][1:])
    for name, values in times.items():
        median = statistics.median(values[1:])
        what = "a guess" if name == "draft" else f"{name} tokens"
        print(f"{what}: {1e3 * median:.2f} ms, {median / one:.2f} of a decoded token")
    runner.close()


if __name__ == "__main__":
    main()
