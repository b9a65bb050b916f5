"""`paged` under random work for a long time, on a CPU: preemption, aborts, cache hits, guesses.

    python tests/benchmarks/paged_fuzz.py --minutes 10 --seed 0

Round after round an engine with random options (`deterministic`, so that answers can be held to the
bit; few KV blocks) is given requests that share beginnings and repeat themselves, some of which are
aborted wherever they are. After every step each block must have exactly the holders that the books
say; at the end of a round no block may be held, and answers must be those that an engine gave which
had each request alone, without cache and guesses. Ends with code 1 and the round's seed otherwise.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from enginebench.types import OptionValue
from enginebench_models import Model, open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.cache import block_bytes
from enginebench_paged.engine import PagedEngine

CONTEXT = 160
BLOCK_SIZES = (16, 32)
CHECKED = 4  # answers of a round that are computed again, alone


@dataclass(frozen=True, slots=True)
class Round:
    """What happened in one."""

    options: Mapping[str, OptionValue]
    finished: int
    aborted: int
    steps: int
    preemptions: int
    hit_tokens: int
    accepted_tokens: int


def random_options(rng: random.Random, model: Model) -> dict[str, OptionValue]:
    """An engine with a few contexts' worth of blocks."""
    block_size, max_batch = rng.choice(BLOCK_SIZES), rng.randrange(1, 7)
    options: dict[str, OptionValue] = {
        "deterministic": True,
        "dtype": "f32",
        "context_length": CONTEXT,
        "block_size": block_size,
        "max_batch": max_batch,
        "step_tokens": rng.randrange(max_batch, 60),
        "chunked_prefill": rng.random() < 0.8,
        "prefix_cache": rng.random() < 0.8,
    }
    if rng.random() < 0.6:
        options |= {"speculative": "ngram", "speculative_tokens": rng.randrange(1, 7)}
    else:
        options["schedule_ahead"] = rng.random() < 0.7
    probe = PagedEngine(model, options | {"kv_memory_gb": 0.01})
    blocks = CONTEXT // block_size + rng.randrange(1, 8)
    kv_bytes = (blocks + 0.5) * block_bytes(probe.config, model.config)
    return options | {"kv_memory_gb": kv_bytes / 1e9}


def random_requests(rng: random.Random, model: Model, count: int) -> list[GenerationRequest]:
    """Made of a few stretches, so that they share beginnings and repeat themselves."""
    vocabulary = range(model.config.vocab_size)
    stretches = [rng.choices(vocabulary, k=rng.randrange(2, 14)) for _ in range(3)]
    made = []
    for index in range(count):
        parts = rng.choices(stretches, k=rng.randrange(1, 4))
        prompt = [token for part in parts for token in part] + rng.choices(vocabulary, k=1)
        sampling = SamplingParams(
            temperature=rng.choice([0.0, 0.0, 0.3]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.0, 1.3]),
            seed=index,
        )
        most = min(80, CONTEXT - len(prompt))
        stops = frozenset(rng.choices(vocabulary, k=rng.choice([0, 0, 40])))
        made.append(
            GenerationRequest(
                str(index), tuple(prompt), rng.randrange(1, most), sampling, stops,
                logprobs=rng.choice([None, None, 1]),
            )
        )  # fmt: skip
    return made


def check_books(engine: PagedEngine) -> None:
    """Each block has the holders that the running sequences say; nobody else holds any."""
    scheduler = engine._scheduler
    holders = Counter(block for sequence in scheduler.running for block in sequence.blocks)
    for block in range(scheduler.pool.num_blocks):
        held = scheduler.pool.count(block)
        assert held == holders[block], f"block {block} is held {held} times, not {holders[block]}"
    assert all(not sequence.blocks for sequence in scheduler.waiting)


def work_off(
    engine: PagedEngine, requests: list[GenerationRequest], rng: random.Random, aborts: float
) -> tuple[dict[str, list[int]], set[str], int]:
    """Requests come and go at random: the tokens of each, who was aborted, the number of steps."""
    said: dict[str, list[int]] = {request.request_id: [] for request in requests}
    coming, unfinished, aborted, steps = list(requests), set(), set(), 0
    while coming or engine.has_work():
        while coming and (not engine.has_work() or rng.random() < 0.4):
            request = coming.pop()
            engine.add(request)
            unfinished.add(request.request_id)
        for output in engine.step():
            assert output.request_id in unfinished, f"{output} after its end"
            said[output.request_id] += output.token_ids
            if output.finish_reason is not None:
                unfinished.discard(output.request_id)
        steps += 1
        check_books(engine)
        if unfinished and rng.random() < aborts:
            name = rng.choice(sorted(unfinished))
            engine.abort(name)
            unfinished.discard(name)
            aborted.add(name)
            check_books(engine)
    return said, aborted, steps


def alone(model: Model, request: GenerationRequest) -> list[int]:
    """What it says on an engine of its own."""
    plain = {"deterministic": True, "dtype": "f32", "context_length": CONTEXT}
    engine = PagedEngine(model, plain | {"max_batch": 1, "prefix_cache": False})
    said, _, _ = work_off(engine, [request], random.Random(0), aborts=0.0)
    engine.close()
    return said[request.request_id]


def one_round(model: Model, seed: int, count: int = 24, checked: int = CHECKED) -> Round:
    """AssertionError where anything is lost, leaked or answered otherwise."""
    rng = random.Random(seed)
    options = random_options(rng, model)
    engine = PagedEngine(model, options)
    requests = random_requests(rng, model, count)
    said, aborted, steps = work_off(engine, requests, rng, aborts=0.05)
    stats = engine.stats()
    assert stats.kv_blocks_used == stats.running_requests == stats.waiting_requests == 0, stats
    for request in rng.sample(requests, min(checked, count)):
        found, name = said[request.request_id], request.request_id
        expected = alone(model, replace(request, logprobs=None))
        whole = found == expected[: len(found)] if name in aborted else found == expected
        assert whole, f"request {name} of {options} said {found}, alone {expected}"
    engine.close()
    return Round(
        options, count - len(aborted), len(aborted), steps, stats.preemptions_total or 0,
        stats.prefix_cache_hit_tokens_total or 0, stats.accepted_draft_tokens_total or 0,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="synthetic:tiny")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, end = open_model(arguments.model), time.monotonic() + 60 * arguments.minutes
    total: Counter[str] = Counter()
    seed = arguments.seed
    while time.monotonic() < end:
        try:
            one = one_round(model, seed)
        except AssertionError as error:
            raise SystemExit(f"round --seed {seed}: {error}") from error
        for name in (
            "finished",
            "aborted",
            "steps",
            "preemptions",
            "hit_tokens",
            "accepted_tokens",
        ):
            total[name] += getattr(one, name)
        seed += 1
        shown = ", ".join(f"{name} {count:,}" for name, count in total.items())
        print(f"{seed - arguments.seed} rounds: {shown}", flush=True)


if __name__ == "__main__":
    main()
