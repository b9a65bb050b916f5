"""A whole decode step (all layers, output head, sampling) in one CUDA graph, through `ops`.

Random weights at the shapes of Qwen2.5-3B and Llama-3.1-8B. Times the step as configured, and with
one technique off: kernels that start while the one before ends, our own skinny products. The
outputs with and without early starts must be the same bits: a difference is a race.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gpu_attention
import torch
from gpu_timing import Bench, Ceilings

from enginebench_paged.kernels import configs, ops

SHAPES = {  # layers, hidden, intermediate, vocabulary
    "3B": (36, 2048, 11008, 151936), "8B": (32, 4096, 14336, 128256),
}  # fmt: skip


PARTS = ("norm", "rope", "attention", "gate")  # what a step can be timed without


@dataclass(frozen=True)
class Variant:
    label: str
    changes: dict[str, object] = field(default_factory=dict)
    without: str = ""


def step(bench: Bench, ceilings: Ceilings) -> None:
    print("a decode step in one graph, ms; floor = bytes of weights and keys at the read ceiling")
    for name in SHAPES:
        torch.cuda.empty_cache()
        weights = _weights(name)
        for batch in (1, 16, 64, 256):
            torch.manual_seed(batch)
            data = _Data.drawn(name, batch)
            milliseconds, outputs = {}, {}
            for variant in _variants():
                run = _decode_step(name, weights, data, variant)
                with chip_with(**variant.changes):
                    milliseconds[variant.label] = bench.time_us([run], 1) / 1e3
                    outputs[variant.label] = run().clone()
            if bench.warm:
                continue
            sizes = sum(w.numel() for key in weights for w in weights[key]) * 2
            floor = (sizes + data.kv_bytes) / ceilings.read_gb_s / 1e6
            print(f"  {name} batch {batch:3}: floor {floor:.3f}")
            logits = outputs["as configured"][:-batch]
            for label, ms in milliseconds.items():
                differs = float((outputs[label][:-batch] - logits).norm() / logits.norm())
                print(f"     {label:16} {ms:.3f} ({100 * floor / ms:.0f}%)  off {differs:.1e}")
            if not torch.equal(outputs["as configured"], outputs["no early start"]):
                bench.note(f"RACE: {name} batch {batch} differs with early starts")


def _variants() -> Iterator[Variant]:
    yield Variant("as configured")
    yield Variant("no early start", {"dependent_launch": False})
    few = configs._hopper(132).gemv
    few = tuple(rule for rule in few if rule.max_m <= 16)
    yield Variant("library above 16", {"gemv": few})
    yield Variant("library products", {"gemv": ()})
    for part in PARTS:
        yield Variant(f"without {part}", without=part)


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


@dataclass(frozen=True)
class _Data:
    """The inputs of one step of `batch` sequences at 640 tokens; every layer has its own keys."""

    caches: torch.Tensor  # (layers, 2, blocks, kv_heads, block_size, head_dim)
    table: torch.Tensor
    lens: torch.Tensor
    embedded: torch.Tensor
    cos_sin: torch.Tensor

    @classmethod
    def drawn(cls, name: str, batch: int) -> "_Data":
        layers, hidden, _, _ = SHAPES[name]
        _, kv_heads, dim = gpu_attention.MODELS[name]
        size = gpu_attention.BLOCK_SIZE
        contexts = torch.full((batch,), 640)
        angle = torch.rand(1024, dim // 2, device="cuda") * 6
        return cls(
            _random(layers, 2, batch * 640 // size, kv_heads, size, dim),
            gpu_attention.tables(contexts, batch * 640 // size, 1)[0],
            contexts.to(torch.int32).cuda(),
            _random(batch, hidden),
            torch.cat((angle.cos(), angle.sin()), -1),
        )

    @property
    def kv_bytes(self) -> int:
        return self.caches.nbytes


def _decode_step(
    name: str, weights: dict[str, list[torch.Tensor]], data: _Data, variant: Variant
) -> Callable[[], torch.Tensor]:
    layers, batch, without = SHAPES[name][0], len(data.lens), variant.without
    heads, kv_heads, dim = gpu_attention.MODELS[name]
    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
    positions = torch.full((batch,), 639, device="cuda")
    slots = (
        data.table[:, 639 // gpu_attention.BLOCK_SIZE].long() * gpu_attention.BLOCK_SIZE
        + gpu_attention.BLOCK_SIZE
        - 1
    )
    norm = weights["norm"][0]
    filters = [torch.full((batch,), value, device="cuda") for value in (0.7, 1.0, 0.0)]
    top_k = torch.zeros(batch, dtype=torch.int32, device="cuda")
    out = torch.empty(batch, dtype=torch.int64, device="cuda")

    def attended(qkv: torch.Tensor, layer: int) -> torch.Tensor:
        q, k, v = qkv.view(batch, -1, dim).split([heads, kv_heads, kv_heads], 1)
        cache = data.caches[layer]
        if without != "rope":
            q = ops.rope_and_cache(q, k, v, positions, data.cos_sin, *cache, slots)
        if without == "attention":
            return q.reshape(batch, -1)
        x = ops.paged_attention(q, *cache, data.table, data.lens, starts, 1, scale=dim**-0.5)
        return x.view(batch, -1)

    def through_layers() -> torch.Tensor:
        residual, x = data.embedded, ops.rms_norm(data.embedded, norm, 1e-6)
        for layer in range(layers):
            x = attended(ops.linear(x, weights["qkv"][layer]), layer)
            x = ops.linear(x, weights["o"][layer])
            if without != "norm":
                x, residual = ops.add_rms_norm(x, residual, norm, 1e-6)
            x = ops.linear(x, weights["gate_up"][layer])
            x = x[:, : x.shape[1] // 2].contiguous() if without == "gate" else ops.silu_mul(x)
            x = ops.linear(x, weights["down"][layer])
            if without != "norm":
                x, residual = ops.add_rms_norm(x, residual, norm, 1e-6)
        return x

    def run() -> torch.Tensor:
        logits = ops.linear(through_layers(), weights["head"][0])
        out.copy_(ops.sample(logits, filters[0], top_k, *filters[1:], positions, positions))
        return torch.cat((logits.float().flatten(), out.float()))

    return run
