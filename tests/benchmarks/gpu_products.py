"""Skinny products at the shapes of Qwen2.5-3B and Llama-3.1-8B, against the library's."""

from collections.abc import Callable
from functools import partial

import torch
from gpu_timing import Bench, Ceilings, sets_to_rotate
from torch.nn import functional

from enginebench_paged.kernels.configs import DotConfig, FmaConfig, GemvConfig
from enginebench_paged.kernels.gemv import skinny_linear

SHAPES = {  # out, in, layers
    "3B qkv": (2560, 2048, 36), "3B o": (2048, 2048, 36), "3B gate_up": (22016, 2048, 36),
    "3B down": (2048, 11008, 36), "3B head": (151936, 2048, 1),
    "8B qkv": (6144, 4096, 32), "8B o": (4096, 4096, 32), "8B gate_up": (28672, 4096, 32),
    "8B down": (4096, 14336, 32), "8B head": (128256, 4096, 1),
}  # fmt: skip
FMA = [
    FmaConfig(rows, columns, 1, warps)
    for rows, columns, warps in (
        (1, 2048, 4), (1, 1024, 2), (2, 1024, 4), (2, 2048, 4), (4, 512, 4), (4, 1024, 4),
        (8, 512, 4), (8, 512, 8), (2, 1024, 2), (4, 512, 2),
    )
]  # fmt: skip
DOT = [
    DotConfig(rows, columns, split, warps, stages)
    for rows, columns, warps, stages in (
        (64, 128, 4, 4), (64, 256, 4, 3), (32, 256, 4, 4), (128, 64, 4, 5), (16, 512, 4, 3),
    )
    for split in (1, 2, 4, 8)
]  # fmt: skip
WIDE = [  # for 17 to 64 rows
    DotConfig(rows, columns, split, warps, stages)
    for rows, columns, warps, stages in (
        (64, 64, 4, 6), (64, 128, 4, 4), (128, 64, 4, 5), (128, 64, 8, 5), (128, 128, 8, 3),
    )
    for split in (1, 2, 4)
]  # fmt: skip


def gemv(model: str, rows: tuple[int, ...]) -> Callable[[Bench, Ceilings], None]:
    """The section that times the products of one model with so many rows of x each."""
    return partial(_gemv, model, rows)


def _gemv(model: str, rows: tuple[int, ...], bench: Bench, ceilings: Ceilings) -> None:
    print(
        f"{model}: skinny products, GB/s of weights (share of the read ceiling); 'lib' is torch's"
    )
    step_us: dict[tuple[int, str], float] = {}
    for name, (n, k, layers) in SHAPES.items():
        if not name.startswith(model):
            continue
        n_sets = sets_to_rotate(n * k * 2)
        weights = torch.randn(n_sets, n, k, device="cuda", dtype=torch.bfloat16)
        for m in rows:
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)

            def calls(config, x=x, weights=weights, out=out):
                return [lambda w=w: skinny_linear(x, w, out=out, config=config) for w in weights]

            candidates = FMA if m == 1 else DOT if m <= 16 else WIDE
            found = bench.best([c for c in candidates if n <= 8192 or c.split_k == 1], calls)
            if not found:
                continue
            library = bench.time_us([lambda w=w, x=x: functional.linear(x, w) for w in weights])
            best = min(found.values())
            for who, us in (("ours", min(best, library)), ("lib", library)):
                step_us[m, who] = step_us.get((m, who), 0.0) + us * layers
            if not bench.warm:
                _print_row(name, m, n * k * 2, found, library, ceilings.read_gb_s)
    if not bench.warm:
        print("all products of a step, the better of ours and the library's, and the library's")
        for (m, who), us in sorted(step_us.items()):
            print(f"  {model} M {m:2} {who:4} {us / 1e3:.3f} ms")


def _print_row(
    name: str, m: int, size: int, found: dict[GemvConfig, float], library: float, ceiling: float
) -> None:
    ranked = sorted(found, key=found.get)
    ours, theirs = (size / us / 1e3 for us in (found[ranked[0]], library))
    print(
        f"  {name:11} M {m:2} {found[ranked[0]]:7.2f} us {ours:5.0f} ({100 * ours / ceiling:3.0f}%)"
        f"  lib {theirs:5.0f} ({100 * theirs / ceiling:3.0f}%)  {_short(ranked[0])}"
        f"{'' if ours > theirs else '  LIBRARY WINS'}",
        flush=True,
    )
    print("     then " + ", ".join(f"{_short(c)} {found[c]:.2f}" for c in ranked[1:5]), flush=True)


def _short(c: GemvConfig) -> str:
    stages = f" s{c.num_stages}" if isinstance(c, DotConfig) else ""
    kind = "dot" if stages else "fma"
    return f"{kind} {c.rows}x{c.columns} k/{c.split_k} w{c.num_warps}{stages}"


def errors() -> dict[str, float]:
    found = {}
    for name in ("3B qkv", "3B down", "8B o"):
        n, k, _ = SHAPES[name]
        weight = _random(n, k)
        bias = _random(n)
        for m in (1, 2, 16, 33, 64):
            x = _random(m, k)
            exact = x.double() @ weight.double().T + bias.double()
            sampled = FMA[4:8] if m == 1 else [DOT[0], DOT[2], DOT[8]] if m <= 16 else WIDE[::4]
            for config in sampled:
                out = torch.full((m, n), torch.nan, device="cuda", dtype=torch.bfloat16)
                skinny_linear(x, weight, bias, out=out, config=config)
                found[f"gemv {name} M {m} {_short(config)}"] = _error(out, exact)
    return found


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())
