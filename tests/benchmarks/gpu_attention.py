"""Attention at the shapes of Qwen2.5-3B and Llama-3.1-8B: checks, then candidates."""

import itertools

import torch
from gpu_timing import Bench, Ceilings, report_winner, sets_to_rotate, share
from torch.nn import functional

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.attention_decode import decode_attention
from enginebench_paged.kernels.attention_prefill import prefill_attention
from enginebench_paged.kernels.configs import DecodeConfig, PrefillConfig

MODELS = {"3B": (16, 2, 128), "8B": (32, 8, 128)}  # query heads, key heads, head_dim
BLOCK_SIZE = 16
LONGEST = 8192
TABLE_WIDTH = LONGEST // BLOCK_SIZE
CACHE_TOKENS = 256 * LONGEST
DECODE = [
    DecodeConfig(tile, per_sm, warps, stages)
    for tile, warps, stages in (
        (32, 4, 3), (32, 4, 5), (64, 4, 2), (64, 4, 3), (64, 4, 5), (128, 4, 3), (128, 8, 3),
    )
    for per_sm in (2, 4, 8)
]  # fmt: skip
PREFILL = [
    PrefillConfig(rows, tile, warps, stages)
    for rows, tile, warps, stages in (
        (64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 5), (128, 32, 8, 3),
        (128, 64, 8, 2), (128, 64, 8, 3), (128, 64, 8, 5), (128, 128, 8, 2),
    )
]  # fmt: skip
_caches: dict[tuple[int, int, int], torch.Tensor] = {}


def caches(tokens: int, n_kv_heads: int, head_dim: int) -> torch.Tensor:
    """Keys and values, random; the largest one made stays."""
    key = (tokens, n_kv_heads, head_dim)
    if key not in _caches:
        _caches.clear()
        shape = (2, tokens // BLOCK_SIZE, n_kv_heads, BLOCK_SIZE, head_dim)
        _caches[key] = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    return _caches[key]


def tables(contexts: torch.Tensor, n_blocks: int, n_sets: int) -> list[torch.Tensor]:
    """Tables of n_sets batches over blocks in random order, each block once while they suffice."""
    each = (-(-contexts // BLOCK_SIZE)).tolist()
    order = torch.randperm(n_blocks, dtype=torch.int32)
    found, at = [], 0
    for _ in range(n_sets):
        table = torch.zeros(len(each), TABLE_WIDTH, dtype=torch.int32)
        for row, count in enumerate(each):
            if at + count > n_blocks:
                at = 0
            table[row, :count] = order[at : at + count]
            at += count
        found.append(table.cuda())
    return found


def decode(bench: Bench, ceilings: Ceilings) -> None:
    print(f"decode attention, median us a layer; tables for {LONGEST} tokens")
    results = []
    for (name, (heads, kv_heads, dim)), long, batch in itertools.product(
        MODELS.items(), (False, True), (1, 16, 64, 256)
    ):
        contexts = torch.full((batch,), LONGEST) if long else torch.randint(512, 769, (batch,))
        bytes_ = int(contexts.sum()) * kv_heads * dim * 4
        k, v = caches(CACHE_TOKENS, kv_heads, dim)
        sets = tables(contexts, len(k), sets_to_rotate(bytes_))
        lens = contexts.to(torch.int32).cuda()
        q = torch.randn(batch, heads, dim, device="cuda", dtype=torch.bfloat16)
        out = torch.empty_like(q)

        def calls(config, q=q, k=k, v=v, lens=lens, sets=sets, out=out, scale=dim**-0.5):
            return [
                lambda table=table: decode_attention(
                    q, k, v, table, lens, scale=scale, out=out, config=config
                )
                for table in sets
            ]

        found = bench.best(DECODE, calls)
        if not found:
            continue
        results.append(found)
        best = min(found, key=found.get)
        rate = share(bytes_ / found[best] / 1e3, ceilings)
        if not bench.warm:
            print(
                f"  {name} {batch:3} x {'8192' if long else '512-768':7} {found[best]:8.1f} us "
                f"{rate}  tile {best.tile:3} per_sm {best.programs_per_sm} "
                f"warps {best.num_warps} stages {best.num_stages}",
                flush=True,
            )
    report_winner(bench, "decode", results)


def prefill(bench: Bench, ceilings: Ceilings) -> None:
    print("prefill attention, median us a layer; 'sdpa' is torch's over contiguous keys")
    results = []
    work = ((1, 512, 512), (4, 512, 512), (16, 512, 512), (1, 512, 8192), (8, 512, 4096))
    for (name, (heads, kv_heads, dim)), (batch, queries, context) in itertools.product(
        MODELS.items(), work
    ):
        contexts = torch.full((batch,), context)
        k, v = caches(16 * LONGEST, kv_heads, dim)
        table = tables(contexts, len(k), 1)[0]
        lens = contexts.to(torch.int32).cuda()
        starts = (torch.arange(batch + 1) * queries).to(torch.int32).cuda()
        q = torch.randn(batch * queries, heads, dim, device="cuda", dtype=torch.bfloat16)
        out = torch.empty_like(q)

        def calls(
            config, q=q, k=k, v=v, table=table, lens=lens, starts=starts, out=out,
            scale=dim**-0.5,
        ):  # fmt: skip
            return [
                lambda: prefill_attention(
                    q, k, v, table, lens, starts, scale=scale, out=out, config=config
                )
            ]

        flops = 4 * dim * heads * batch * queries * (context - (queries - 1) / 2)
        found = bench.best(PREFILL, calls)
        if not found:
            continue
        results.append(found)
        best = min(found, key=found.get)
        peer = _library_prefill(bench, batch, heads, queries, dim) if context == queries else ""
        if not bench.warm:
            rate = flops / found[best] / 1e6
            print(
                f"  {name} {batch:2} x {queries} of {context:4} {found[best]:8.1f} us {rate:5.0f} "
                f"TFLOP/s {100 * rate / ceilings.bf16_tflop_s:3.0f}%  rows {best.rows} tile "
                f"{best.tile} warps {best.num_warps} stages {best.num_stages}{peer}",
                flush=True,
            )
    report_winner(bench, "prefill", results)


def _library_prefill(bench: Bench, batch: int, heads: int, queries: int, dim: int) -> str:
    dense = torch.randn(3, batch, heads, queries, dim, device="cuda", dtype=torch.bfloat16)
    us = bench.time_us([lambda: functional.scaled_dot_product_attention(*dense, is_causal=True)])
    return f"  sdpa {us:.1f} us"


def errors() -> dict[str, float]:
    """Relative errors of both kernels against float32 on the same bfloat16 inputs."""
    found = {}
    cases = {
        "3B": (16, 2, 128, None, None), "8B": (32, 8, 128, None, None),
        "window, soft cap, dim 256": (8, 4, 256, 700, 30.0), "dim 80": (6, 2, 80, None, None),
        "dim 64, group 3": (9, 3, 64, 100, None),
    }  # fmt: skip
    for label, (heads, kv_heads, dim, window, softcap) in cases.items():
        masks = {"scale": dim**-0.5, "window": window, "softcap": softcap}
        contexts = torch.tensor([1, 17, 640, 1023, 5000])
        k, v = caches(2 * LONGEST, kv_heads, dim)
        table = tables(contexts, len(k), 1)[0]
        lens = contexts.to(torch.int32).cuda()
        for kind, queries in (("decode", [1] * 5), ("prefill", [1, 17, 64, 1000, 300])):
            starts = torch.tensor([0, *queries]).cumsum(0).to(torch.int32).cuda()
            q = torch.randn(sum(queries), heads, dim, device="cuda", dtype=torch.bfloat16)
            expected = reference.paged_attention(
                q.float(), k.float(), v.float(), table, lens, starts, max(queries), **masks
            )
            out = torch.full_like(q, torch.nan)
            if kind == "decode":
                decode_attention(q, k, v, table, lens, out=out, **masks)
            else:
                prefill_attention(q, k, v, table, lens, starts, out=out, **masks)
            found[f"{kind} {label}"] = float((out.float() - expected).norm() / expected.norm())
    return found
