"""Sampling over the vocabulary of Qwen2.5: the same tokens as the twin, then candidates."""

import itertools

import torch
from gpu_timing import Bench, Ceilings, report_winner, sets_to_rotate

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.configs import SampleConfig
from enginebench_paged.kernels.sampling import sample

VOCAB_SIZE = 151936
KINDS = {  # temperature, top_k, top_p, min_p
    "greedy": (0.0, 0, 1.0, 0.0), "temperature": (0.7, 0, 1.0, 0.0), "top-p": (0.7, 0, 0.9, 0.0),
    "top-k": (0.7, 50, 1.0, 0.0), "top-k + top-p": (0.7, 20, 0.8, 0.0),
}  # fmt: skip
CANDIDATES = [
    SampleConfig(tile, warps, filter_tile, filter_warps)
    for tile, warps, filter_tile, filter_warps in (
        (1024, 4, 4096, 16), (2048, 4, 4096, 16), (4096, 4, 4096, 8), (2048, 8, 2048, 8),
        (4096, 8, 8192, 32),
    )
]  # fmt: skip


def rows(kind: str, batch: int) -> tuple[torch.Tensor, ...]:
    temperature, top_k, top_p, min_p = KINDS[kind]
    made = (
        torch.full((batch,), temperature),
        torch.full((batch,), top_k, dtype=torch.int32),
        torch.full((batch,), top_p),
        torch.full((batch,), min_p),
        torch.arange(batch) * 977,
        torch.arange(batch) + 5,
    )
    return tuple(row.cuda() for row in made)


def sampling(bench: Bench, ceilings: Ceilings) -> None:
    print("sampling, median us; logits bfloat16, normal with deviation 3")
    results = []
    for batch, kind in itertools.product((1, 16, 64, 256), KINDS):
        n_sets = sets_to_rotate(batch * VOCAB_SIZE * 2)
        logits = torch.randn(n_sets, batch, VOCAB_SIZE, device="cuda", dtype=torch.bfloat16) * 3
        parameters = rows(kind, batch)
        out = torch.empty(batch, dtype=torch.int64, device="cuda")

        def calls(config, logits=logits, parameters=parameters, out=out):
            return [lambda x=x: sample(x, *parameters, out=out, config=config) for x in logits]

        found = bench.best(CANDIDATES, calls)
        if not found:
            continue
        results.append(found)
        if not bench.warm:
            each = " ".join(f"{us:.0f}" for us in found.values())
            best = min(found.values())
            print(f"  batch {batch:3} {kind:14} {best:7.1f} us  candidates: {each}", flush=True)
    report_winner(bench, "sampling", results)


def errors() -> dict[str, float]:
    """The share of rows whose token is not the twin's: near-ties of two keys may differ."""
    found = {}
    for kind in KINDS:
        logits = torch.randn(128, VOCAB_SIZE, device="cuda", dtype=torch.bfloat16) * 3
        parameters = rows(kind, 128)
        out = torch.full((128,), -1, dtype=torch.int64, device="cuda")
        sample(logits, *parameters, out=out)
        differs = out != reference.sample(logits, *parameters)
        found[f"sampling {kind}, share of rows that differ"] = float(differs.float().mean())
    return found
