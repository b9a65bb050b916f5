"""Norms, activation and rotation with the cache write: checks, and time for decode and prefill."""

import torch
from gpu_timing import Bench, Ceilings, sets_to_rotate, share

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.activation import silu_mul
from enginebench_paged.kernels.norm import add_rms_norm, rms_norm
from enginebench_paged.kernels.rope_cache import rope_and_cache

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, DIM = 2048, 11008, 16, 2, 128  # Qwen2.5-3B


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def _rope_inputs(tokens: int) -> tuple[torch.Tensor, ...]:
    merged = _random(tokens, (HEADS + 2 * KV_HEADS) * DIM).view(tokens, -1, DIM)
    q, k, v = merged.split([HEADS, KV_HEADS, KV_HEADS], 1)
    positions = torch.randint(0, 4096, (tokens,), device="cuda")
    angle = torch.rand(4096, DIM // 2, device="cuda") * 6
    caches = torch.zeros(2, 1024, KV_HEADS, 16, DIM, device="cuda", dtype=torch.bfloat16)
    slots = torch.randperm(1024 * 16, device="cuda")[:tokens]
    return q, k, v, positions, torch.cat((angle.cos(), angle.sin()), -1), *caches, slots


def elementwise(bench: Bench, ceilings: Ceilings) -> None:
    print("elementwise kernels at Qwen2.5-3B's sizes, median us (bytes read and written)")
    weight = _random(HIDDEN)
    work = {  # elements a token, inputs, kernel
        "rms_norm": (
            2 * HIDDEN, lambda t: (_random(t, HIDDEN),), lambda x: rms_norm(x, weight, 1e-6)
        ),
        "add_rms_norm": (
            4 * HIDDEN, lambda t: (_random(t, HIDDEN), _random(t, HIDDEN)),
            lambda x, r: add_rms_norm(x, r, weight, 1e-6),
        ),
        "silu_mul": (3 * INTERMEDIATE, lambda t: (_random(t, 2 * INTERMEDIATE),), silu_mul),
        "rope_and_cache": (2 * (HEADS + 2 * KV_HEADS) * DIM, _rope_inputs, rope_and_cache),
    }  # fmt: skip
    for tokens in (1, 256, 8192):
        for name, (elements, make, kernel) in work.items():
            bytes_ = elements * tokens * 2
            inputs = [make(tokens) for _ in range(min(12, sets_to_rotate(bytes_)))]
            us = bench.time_us([lambda i=i, kernel=kernel: kernel(*i) for i in inputs])
            if not bench.warm:
                rate = share(bytes_ / us / 1e3, ceilings)
                print(f"  {name:15} {tokens:5} tokens {us:8.2f} us {rate}", flush=True)


def errors() -> dict[str, float]:
    found = {}
    for tokens in (1, 77):
        x, residual, weight = _random(tokens, HIDDEN), _random(tokens, HIDDEN), _random(HIDDEN)
        gate_up = _random(tokens, 2 * INTERMEDIATE)
        normed, total = add_rms_norm(x, residual, weight, 1e-6)
        expected, expected_total = reference.add_rms_norm(x, residual, weight, 1e-6)
        alone = reference.rms_norm(x, weight, 1e-6)
        found[f"rms_norm {tokens}"] = _error(rms_norm(x, weight, 1e-6), alone)
        found[f"add_rms_norm {tokens}"] = _error(normed, expected) + _error(total, expected_total)
        found[f"silu_mul {tokens}"] = _error(silu_mul(gate_up), reference.silu_mul(gate_up))
        for norms in ((None, None), (_random(DIM), _random(DIM))):
            *inputs, k_cache, v_cache, slots = _rope_inputs(tokens)
            slots[: tokens // 2] = -1
            twins = [torch.zeros_like(k_cache), torch.zeros_like(v_cache)]
            turned = rope_and_cache(*inputs, k_cache, v_cache, slots, *norms)
            expected = reference.rope_and_cache(*inputs, *twins, slots, *norms)
            error = _error(turned, expected)
            error += _error(k_cache, twins[0]) + _error(v_cache, twins[1])
            found[f"rope_and_cache {tokens}{' normed' if norms[0] is not None else ''}"] = error
    return found


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
