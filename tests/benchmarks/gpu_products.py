"""Skinny products at the shapes of Qwen2.5-3B and Llama-3.1-8B, against the library's."""

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
        (64, 128, 4, 4), (64, 256, 4, 3), (32, 256, 4, 4), (16, 256, 2, 4), (16, 512, 4, 3),
        (128, 64, 4, 5),
    )
    for split in (1, 2, 4, 8)
]  # fmt: skip


def gemv(bench: Bench, ceilings: Ceilings) -> None:
    print("skinny products, GB/s of weights read (share of the read ceiling); 'lib' is torch's")
    step_us: dict[tuple[str, int, str], float] = {}
    for name, (n, k, layers) in SHAPES.items():
        n_sets = sets_to_rotate(n * k * 2)
        weights = torch.randn(n_sets, n, k, device="cuda", dtype=torch.bfloat16)
        dots = [c for c in DOT if n <= 8192 or c.split_k == 1]
        for m in (16, 8, 4, 2, 1):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)

            def calls(config, x=x, weights=weights, out=out):
                return [lambda w=w: skinny_linear(x, w, out=out, config=config) for w in weights]

            found = bench.best(dots + (FMA if m == 1 else []), calls)
            if not found:
                continue
            best = min(found, key=found.get)
            if m == 16:  # the others differ from it in what is stored alone: keep the best few
                dots = sorted(found, key=found.get)[:2]
            library = bench.time_us([lambda w=w, x=x: functional.linear(x, w) for w in weights])
            for who, us in (("ours", min(found[best], library)), ("lib", library)):
                key = (name.split()[0], m, who)
                step_us[key] = step_us.get(key, 0.0) + us * layers
            if not bench.warm:
                _print_row(name, m, n * k * 2, found, library, ceilings.read_gb_s)
    if not bench.warm:
        print("all products of a step, the better of ours and the library's, and the library's")
        for (model, m, who), us in sorted(step_us.items()):
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
    if m in (1, 16):
        print(
            "     then " + ", ".join(f"{_short(c)} {found[c]:.2f}" for c in ranked[1:6]), flush=True
        )


def _short(c: GemvConfig) -> str:
    stages = f" s{c.num_stages}" if isinstance(c, DotConfig) else ""
    kind = "dot" if stages else "fma"
    return f"{kind} {c.rows}x{c.columns} k/{c.split_k} w{c.num_warps}{stages}"


def errors() -> dict[str, float]:
    found = {}
    for name in ("3B qkv", "3B down", "8B o"):
        n, k, _ = SHAPES[name]
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        bias = torch.randn(n, device="cuda", dtype=torch.bfloat16)
        for m in (1, 2, 16):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            expected = x.double() @ weight.double().T + bias.double()
            for config in (FMA[4:8] if m == 1 else []) + [DOT[0], DOT[2], DOT[8], DOT[13]]:
                out = torch.full((m, n), torch.nan, device="cuda", dtype=torch.bfloat16)
                skinny_linear(x, weight, bias, out=out, config=config)
                error = float((out.double() - expected).norm() / expected.norm())
                found[f"gemv {name} M {m} {_short(config)}"] = error
    return found
