"""Checks, then times, the kernels for fewer bits: weights in int8, int4 and fp8, an fp8 KV cache.

    PYTHONPATH=engines:harness python3 tests/benchmarks/paged_weights_gpu.py [--search]

Prints microseconds of each product at the shapes of Qwen2.5-3B and Llama-3.1-8B beside bf16's, the
share of the read ceiling that its bytes reach, what all products of a step sum to, and attention
over both caches. With --search, candidates of launch configurations follow: WINNER lines belong in
the `quantized` rules of enginebench_paged/kernels/configs.py. Needs torch, triton and numpy.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from gpu_products import SHAPES
from gpu_timing import (
    FAILURES,
    Bench,
    Ceilings,
    lost_by,
    measure_ceilings,
    report_winner,
    sets_to_rotate,
)

from enginebench_paged.kernels import ops, reference
from enginebench_paged.kernels.attention_decode import decode_attention
from enginebench_paged.kernels.attention_prefill import prefill_attention
from enginebench_paged.kernels.configs import QuantizedConfig
from enginebench_paged.kernels.quantized import quantized_linear
from enginebench_paged.kernels.quantized_weight import QuantizedWeight, WeightFormat, quantize

FORMATS = {
    "int8": WeightFormat(8, 128),
    "int4": WeightFormat(4, 128, has_zeros=True),
    "fp8": WeightFormat(8, None),
}
BATCHES = (1, 16, 64, 256, 2048)
TOLERANCE = {"int8": 1e-2, "int4": 1e-2, "fp8": 6e-2}  # fp8: rows of x are rounded too


def check() -> int:
    wrong = 0
    for name, format in FORMATS.items():
        worst = 0.0
        for n, k in ((2048, 576), (2560, 2048), (10000, 1536), (4096, 14336)):
            held = quantize(torch.randn(n, k, device="cuda"), format)
            exact = held.dequantized().double()
            for m in (1, 2, 16, 17, 64, 65, 300):
                x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
                expected = x.double() @ exact.T
                error = float((ops.quantized_linear(x, held) - expected).norm() / expected.norm())
                worst = max(worst, error)
                if not error < TOLERANCE[name]:
                    wrong += 1
                    print(f"  ! WRONG {name} N {n} K {k} M {m}: {error:.2e}")
        print(f"  {name}: worst {worst:.1e}")
    for label, error in attention_errors():
        wrong += not error < 1e-2
        print(f"  fp8 cache, {label}: {error:.1e}{'' if error < 1e-2 else '  ! WRONG'}")
    print("CHECKS: " + (f"{wrong} WRONG" if wrong else "all kernels agree with their twins"))
    return wrong


class Cache:
    """A batch of equal contexts, in bf16 or fp8."""

    def __init__(self, batch: int, context: int, heads: int, kv_heads: int, fp8: bool) -> None:
        blocks = batch * -(-context // 16)
        shape = (blocks, kv_heads, 16, 128)
        dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
        self.k, self.v = (
            torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(dtype) for _ in "kv"
        )
        ones = torch.full((kv_heads,), 0.5, device="cuda")
        self.scales = (ones, ones * 3) if fp8 else None
        order = torch.randperm(blocks, device="cuda").to(torch.int32)
        self.tables = order.view(batch, -1)
        self.lens = torch.full((batch,), context, device="cuda", dtype=torch.int32)
        self.nbytes = self.k.nbytes + self.v.nbytes
        self.heads = heads

    def queries(self, each: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = len(self.lens)
        q = torch.randn(batch * each, self.heads, 128, device="cuda", dtype=torch.bfloat16)
        return q, torch.arange(batch + 1, device="cuda", dtype=torch.int32) * each

    def decode(self, q: torch.Tensor) -> torch.Tensor:
        cached = (self.k, self.v, self.tables, self.lens)
        return decode_attention(q, *cached, scale=0.09, scales=self.scales)

    def prefill(self, q: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        cached = (self.k, self.v, self.tables, self.lens)
        return prefill_attention(q, *cached, starts, scale=0.09, scales=self.scales)


def attention_errors() -> Iterator[tuple[str, float]]:
    for label, heads, kv_heads in (("3B", 16, 2), ("8B", 32, 8)):
        cache = Cache(3, 333, heads, kv_heads, fp8=True)
        for name, each in (("decode", 1), ("prefill", 70)):
            q, starts = cache.queries(each)
            found = cache.decode(q) if each == 1 else cache.prefill(q, starts)
            twin = reference.paged_attention(
                q.float(), cache.k, cache.v, cache.tables, cache.lens, starts, each,
                scale=0.09, scales=cache.scales,
            )  # fmt: skip
            yield f"{label} {name}", float((found - twin).norm() / twin.norm())


def weights_of(n: int, k: int, format: WeightFormat | None) -> list[torch.Tensor | QuantizedWeight]:
    """Enough of them that no cache holds them all."""
    first = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    if format is None:
        return [first] + [first.clone() for _ in range(sets_to_rotate(first.nbytes) - 1)]
    held = quantize(first, format)
    others = range(sets_to_rotate(held.nbytes) - 1)
    return [held] + [quantize(first, format) for _ in others]


def products(bench: Bench, ceilings: Ceilings, models: list[str]) -> None:
    print("products: us (share of the read ceiling; of TFLOP/s from 256 rows on)")
    totals: dict[tuple[str, int, str], float] = {}
    for name, (n, k, layers) in SHAPES.items():
        model = name.split()[0]
        if model not in models:
            continue
        lines = {m: f"  {name:11} M {m:4}" for m in BATCHES}
        for label, format in ({"bf16": None} | FORMATS).items():
            held = FORMATS["int8"] if label == "int4" and name.endswith("head") else format
            weights = weights_of(n, k, held)
            for m in BATCHES:
                if name.endswith("head") and m > 256:
                    continue
                x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
                product = ops.linear if format is None else ops.quantized_linear
                try:
                    us = bench.time_us([lambda w=w, x=x, p=product: p(x, w) for w in weights])
                except FAILURES as error:
                    bench.note(name, label, m, type(error).__name__, str(error)[:120])
                    continue
                reads = f"{100 * weights[0].nbytes / us / 1e3 / ceilings.read_gb_s:3.0f}%"
                rate = f"{2 * m * n * k / us / 1e6:3.0f}T"
                lines[m] += f"   {label} {us:8.2f} ({rate if m >= 256 else reads})"
                key = (model, m, label)
                totals[key] = totals.get(key, 0.0) + us * layers
            del weights
        print("\n".join(line for line in lines.values() if "(" in line), flush=True)
    print("all products of a step, ms (without the head at 2048)")
    for model in models:
        for m in BATCHES:
            row = {label: totals.get((model, m, label), 0.0) / 1e3 for label in ("bf16", *FORMATS)}
            print(f"  {model} M {m:4} " + "  ".join(f"{a} {ms:7.3f}" for a, ms in row.items()))


def attention(bench: Bench, ceilings: Ceilings, models: list[str]) -> None:
    print("attention: us with a bf16 and an fp8 cache (share of the read ceiling)")
    shapes = {"3B": (16, 2), "8B": (32, 8)}
    for model in models:
        for batch, context, each in ((1, 640, 1), (16, 640, 1), (256, 640, 1), (8, 512, 512)):
            text = f"  {model} {batch:3} x {context}, {each} new:"
            for fp8 in (False, True):
                caches = [Cache(batch, context, *shapes[model], fp8)]
                caches += [
                    Cache(batch, context, *shapes[model], fp8)
                    for _ in range(min(8, sets_to_rotate(caches[0].nbytes)) - 1)
                ]
                q, starts = caches[0].queries(each)
                calls: list[Callable[[], object]] = [
                    lambda c=c, q=q, s=starts, n=each: c.decode(q) if n == 1 else c.prefill(q, s)
                    for c in caches
                ]
                us = bench.time_us(calls)
                share = caches[0].nbytes / us / 1e3 / ceilings.read_gb_s
                text += f"   {'fp8' if fp8 else 'bf16'} {us:8.2f} ({100 * share:3.0f}%)"
            print(text, flush=True)


def candidates(m: int) -> list[QuantizedConfig]:
    if m == 1:
        vector = [
            QuantizedConfig(rows, 1, split, warps, 1, depth)
            for rows, warps, depth in (
                (1, 4, 16), (2, 4, 8), (2, 4, 16), (4, 4, 4), (4, 4, 8), (4, 4, 16), (8, 4, 4),
                (4, 2, 4), (8, 8, 8), (16, 4, 2), (2, 2, 8),
            )
            for split in (1, 4)
        ]  # fmt: skip
        return vector + candidates(16)
    columns = min(128, max(16, m))
    return [
        QuantizedConfig(rows, columns, split, warps, stages)
        for rows, warps, stages in (
            (16, 1, 4), (32, 2, 4), (64, 4, 3), (64, 4, 4), (64, 4, 6), (128, 4, 3), (128, 8, 3),
            (128, 8, 4), (256, 8, 3),
        )
        for split in ((1, 2, 4, 8, 16) if m <= 64 else (1,))
    ]  # fmt: skip


def search(bench: Bench, models: list[str]) -> None:
    for label in ("int8", "int4", "fp8"):
        for m in (1, 16, 64, 256, 2048):
            if label == "fp8" and m > 16:  # the library's, in fp8
                continue
            for narrow in (True, False):
                tables = []
                for name, (n, k, _) in SHAPES.items():
                    wide = n > 8192
                    if name.split()[0] not in models or name.endswith("head") or wide == narrow:
                        continue
                    weights = weights_of(n, k, FORMATS[label])
                    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
                    found = bench.best(
                        candidates(m),
                        lambda c, x=x, ws=weights: [
                            lambda w=w: quantized_linear(x, w, config=c) for w in ws
                        ],
                    )
                    ranked = sorted(found, key=lambda c: found[c])[:4]
                    print(
                        f"  {label} {name} M {m}: " + ", ".join(_text(c, found[c]) for c in ranked)
                    )
                    tables.append(found)
                what = f"{label} M {m} {'N <= 8192' if narrow else 'wider'}"
                report_winner(bench, what, tables)
                shared = set.intersection(*(set(t) for t in tables)) if tables else set()
                best = sorted(shared, key=lambda c: lost_by(tables, c))[1:3]
                print(
                    f"     next for {what}: " + "; ".join(_text(c, 0.0) for c in best), flush=True
                )


def _text(c: QuantizedConfig, us: float) -> str:
    depth = f" d{c.depth}" if c.columns == 1 else ""
    return f"{c.rows}x{c.columns} k/{c.split_k} w{c.num_warps} s{c.num_stages}{depth} {us:.2f}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--search", action="store_true", help="time candidates as well")
    parser.add_argument("--models", default="3B,8B", help="by comma")
    parser.add_argument("--budget-s", type=float, default=500.0)
    options = parser.parse_args()
    models = options.models.split(",")
    torch.manual_seed(1)
    bench = Bench(False, time.monotonic() + options.budget_s)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    check()
    ceilings = measure_ceilings()
    print(f"read ceiling {ceilings.read_gb_s:.0f} GB/s, bf16 {ceilings.bf16_tflop_s:.0f} TFLOP/s")
    torch.cuda.empty_cache()
    products(bench, ceilings, models)
    attention(bench, ceilings, models)
    if options.search:
        search(bench, models)


if __name__ == "__main__":
    main()
