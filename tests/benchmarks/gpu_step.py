"""A whole decode step (all layers, output head, sampling) in one CUDA graph, through `ops`.

Random weights at the shapes of Qwen2.5-3B and Llama-3.1-8B. Times the step as configured, and with
one technique off: kernels that start while the one before ends, our own skinny products. The
outputs with and without early starts must be the same bits: a difference is a race.
"""

import dataclasses
from collections.abc import Callable
from contextlib import contextmanager

import gpu_attention
import torch
from gpu_timing import Bench, Ceilings

from enginebench_paged.kernels import configs, ops

SHAPES = {  # layers, hidden, intermediate, vocabulary
    "3B": (36, 2048, 11008, 151936), "8B": (32, 4096, 14336, 128256),
}  # fmt: skip


def step(bench: Bench, ceilings: Ceilings) -> None:
    print("a decode step in one graph, ms; floor = bytes of weights and keys at the read ceiling")
    for name in SHAPES:
        torch.cuda.empty_cache()
        weights = _weights(name)
        for batch in (1, 16, 64, 256):
            run, bytes_ = _decode_step(name, weights, batch)
            milliseconds, outputs = {}, {}
            for label, changes in (
                ("as configured", {}),
                ("no early start", {"dependent_launch": False}),
                ("library products", {"gemv": ()}),
            ):
                with chip_with(**changes):
                    milliseconds[label] = bench.time_us([run], 1) / 1e3
                    outputs[label] = run().clone()
            if bench.warm:
                continue
            floor = bytes_ / ceilings.read_gb_s / 1e6
            each = "  ".join(f"{label} {ms:.3f}" for label, ms in milliseconds.items())
            best = min(milliseconds.values())
            print(
                f"  {name} batch {batch:3}: {each}  floor {floor:.3f} ({100 * floor / best:.0f}%)"
                f"  {batch / best * 1e3:.0f} tok/s",
                flush=True,
            )
            if not torch.equal(outputs["as configured"], outputs["no early start"]):
                bench.note(f"RACE: {name} batch {batch} differs with early starts")


@contextmanager
def chip_with(**changes: object):
    capability = torch.cuda.get_device_capability()
    row = configs._CHIPS.get(capability, configs._any_chip)
    configs._CHIPS[capability] = lambda sm_count: dataclasses.replace(row(sm_count), **changes)
    configs.chip.cache_clear()
    yield
    configs._CHIPS[capability] = row
    configs.chip.cache_clear()


def _weights(name: str) -> dict[str, list[torch.Tensor]]:
    layers, hidden, intermediate, vocab_size = SHAPES[name]
    heads, kv_heads, dim = gpu_attention.MODELS[name]
    shapes = {
        "qkv": ((heads + 2 * kv_heads) * dim, hidden), "o": (hidden, heads * dim),
        "gate_up": (2 * intermediate, hidden), "down": (hidden, intermediate),
    }  # fmt: skip
    made = {
        key: [_random(*shape) / shape[1] ** 0.5 for _ in range(layers)]
        for key, shape in shapes.items()
    }
    return made | {"head": [_random(vocab_size, hidden)], "norm": [1 + _random(hidden) / 8]}


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def _decode_step(
    name: str, weights: dict[str, list[torch.Tensor]], batch: int
) -> tuple[Callable[[], torch.Tensor], float]:
    """One step of `batch` sequences at 640 tokens, and the bytes that it must read."""
    layers, hidden, _, _ = SHAPES[name]
    heads, kv_heads, dim = gpu_attention.MODELS[name]
    contexts = torch.full((batch,), 640)
    # the layers share one cache: at small batches its keys come from L2, as little as they are
    caches = torch.randn(
        2, batch * 40, kv_heads, gpu_attention.BLOCK_SIZE, dim, device="cuda", dtype=torch.bfloat16
    )
    table = gpu_attention.tables(contexts, batch * 40, 1)[0]
    lens = contexts.to(torch.int32).cuda()
    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
    positions = torch.full((batch,), 639, device="cuda")
    slots = table[:, 39].long() * gpu_attention.BLOCK_SIZE + 15
    angle = torch.rand(1024, dim // 2, device="cuda") * 6
    cos_sin = torch.cat((angle.cos(), angle.sin()), -1)
    embedded = _random(batch, hidden)
    norm = weights["norm"][0]
    filters = [torch.full((batch,), value, device="cuda") for value in (0.7, 1.0, 0.0)]
    top_k = torch.zeros(batch, dtype=torch.int32, device="cuda")
    out = torch.empty(batch, dtype=torch.int64, device="cuda")

    def run() -> torch.Tensor:
        residual, x = embedded, ops.rms_norm(embedded, norm, 1e-6)
        for layer in range(layers):
            qkv = ops.linear(x, weights["qkv"][layer]).view(batch, -1, dim)
            q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
            q = ops.rope_and_cache(q, k, v, positions, cos_sin, *caches, slots)
            x = ops.paged_attention(q, *caches, table, lens, starts, 1, scale=dim**-0.5)
            x = ops.linear(x.view(batch, -1), weights["o"][layer])
            x, residual = ops.add_rms_norm(x, residual, norm, 1e-6)
            x = ops.silu_mul(ops.linear(x, weights["gate_up"][layer]))
            x = ops.linear(x, weights["down"][layer])
            x, residual = ops.add_rms_norm(x, residual, norm, 1e-6)
        logits = ops.linear(x, weights["head"][0])
        out.copy_(ops.sample(logits, filters[0], top_k, *filters[1:], positions, positions))
        return torch.cat((logits.float().flatten(), out.float()))

    sizes = sum(w.numel() for key in weights for w in weights[key]) * 2
    return run, sizes + layers * batch * 640 * kv_heads * dim * 4
