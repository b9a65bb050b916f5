"""Checks and times the quant engine's GPU side on the GPU at hand; winners to copy, a table last.

    PYTHONPATH=engines:harness python tests/benchmarks/quant_gpu.py [--only check,model:8B-Q8_0]

Sections: `check` and `check:KIND` compare every kernel with its twin on fresh random inputs, and
whole models with and without early starts; `product:NAME` times tile configurations of the decode
products; `attention` splits of a context; `model:NAME` loads a model of made-up weights at its
true shape and measures load, decode and prefill as llama-bench does (512 tokens of prompt, then
128 more), through the engine and by the launches alone. All kernels are compiled first, side by
side, into Triton's cache. One failing section or candidate does not stop the others.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import triton
from gpu_timing import FAILURES, Bench, Ceilings, measure_ceilings, sets_to_rotate
from quant_gpu_checks import check, check_kind
from quant_gpu_planes import random_planes

from enginebench_models import open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_quant.gpu.engine import GpuEngine
from enginebench_quant.gpu.model import GpuModel
from enginebench_quant.kernels.gpu import attention_decode, dependent_launch
from enginebench_quant.kernels.gpu.configs import ProductConfig, gate_up_config, product_config
from enginebench_quant.kernels.gpu.planes import BLOCK, FORMATS, Planes
from enginebench_quant.kernels.gpu.product import gate_up, product
from enginebench_quant.kernels.gpu.vector import (
    PACKED_HEADS,
    empty_vector,
    pack_vector,
    packs_inner,
)

MODELS = {  # synthetic name; llama.cpp's decode and prefill tok/s on an H100; our targets
    "8B-Q4_K_M": ("llama-3.1-8b@q4_k_m", 269.7, 9787, 430, 15000),
    "8B-Q8_0": ("llama-3.1-8b@q8_0", 231.9, 11183, 290, 13420),
    "7B-Q4_0": ("llama-2-7b@q4_0", 339.9, 11066, 560, 13280),
    "3B-Q4_K_M": ("qwen2.5-3b@q4_k_m", 386.5, 14353, 800, 17224),
    "135M-Q4_1": ("smollm2-135m@q4_1", 910.0, 49645, 1500, 59574),
}
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
SHAPES = (  # of decode: name, kinds, rows, columns; the best configuration of each is named
    ("8B qkv", ("Q4_K", "Q6_K"), (5120, 1024), 4096),
    ("8B o", ("Q4_K",), (4096,), 4096),
    ("8B gate_up", ("Q4_K", "Q4_K"), (14336, 14336), 4096),
    ("8B down", ("Q4_K",), (4096,), 14336),
    ("8B down", ("Q6_K",), (4096,), 14336),
    ("8B head", ("Q6_K",), (128256,), 4096),
    ("8B gate_up", ("Q8_0", "Q8_0"), (14336, 14336), 4096),
    ("8B down", ("Q8_0",), (4096,), 14336),
    ("8B o", ("Q8_0",), (4096,), 4096),
    ("7B gate_up", ("Q4_0", "Q4_0"), (11008, 11008), 4096),
    ("7B down", ("Q4_0",), (4096,), 11008),
    ("7B qkv", ("Q4_0",), (12288,), 4096),
    ("3B qkv", ("Q4_K",), (2560,), 2048),
    ("3B o", ("Q4_K",), (2048,), 2048),
    ("3B gate_up", ("Q4_K", "Q4_K"), (11008, 11008), 2048),
    ("3B down", ("Q4_K",), (2048,), 11008),
    ("3B head", ("Q6_K",), (151936,), 2048),
    ("135M gate_up", ("Q4_1", "Q4_1"), (1536, 1536), 576),
    ("135M down", ("Q4_1",), (576,), 1536),
    ("135M head", ("Q8_0",), (49152,), 576),
)


def product_group(name: str, kinds: tuple[str, ...]) -> str:
    """Products that one process compiles and times."""
    return f"{name.split()[0]}-{kinds[0]}"


def candidates(columns: int) -> list[ProductConfig]:
    tile = triton.next_power_of_2(columns // 32)
    warps = {32: (1, 2), 64: (1, 2, 4), 128: (1, 2, 4), 256: (2, 4), 512: (4, 8)}[max(32, tile)]
    found = []
    for n_warps in warps:
        blocks_each = max(1, tile // (32 * n_warps))
        for rows in (1, 2, 4, 8):
            if rows * blocks_each > 8 or rows * max(1, tile // 32) < n_warps:
                continue
            for warps_per_sm in (12, 20, 32):
                found.append(ProductConfig(rows, n_warps, max(1, warps_per_sm // n_warps)))
    return found


def time_products(chosen: str, bench: Bench, ceilings: Ceilings) -> None:
    print("decode products, us, GB/s of packed weights (share of the read ceiling)")
    for name, kinds, rows, columns in SHAPES:
        if product_group(name, kinds) != chosen:
            continue
        is_gate_up = "gate_up" in name
        sizes = [random_planes(k, r, columns, 0) for k, r in zip(kinds, rows, strict=True)]
        n_bytes = sum(planes.n_bytes for planes in sizes)
        is_super = sizes[0].format.file_values > BLOCK
        own = (
            gate_up_config(columns // 32, is_super=is_super)
            if is_gate_up
            else product_config(sum(rows), columns // 32)
        )
        sets = [
            [random_planes(k, r, columns, seed) for k, r in zip(kinds, rows, strict=True)]
            for seed in range(1 if bench.warm else min(24, sets_to_rotate(n_bytes)))
        ]
        x, norm = torch.randn(2, columns, device="cuda")
        out: Any = torch.zeros(rows[0] if is_gate_up else sum(rows), device="cuda")
        if name.endswith((" o", " down")):
            pack_vector(x, packed := empty_vector(columns, x.device))
            x = packed
        if is_gate_up and packs_inner(rows[0], x.device):
            out = empty_vector(rows[0], x.device)

        add = name.endswith((" o", " down"))

        def calls(
            config: Any, sets=sets, x=x, norm=norm, out=out, is_gate_up=is_gate_up, add=add
        ) -> list[Callable[[], object]]:
            def run(planes: list[Planes]) -> None:
                if is_gate_up:
                    gate_up(x, *planes, out, norm=norm, eps=1e-5, config=config)
                else:
                    product(
                        x, planes, out, norm=None if add else norm, eps=1e-5, add=add, config=config
                    )

            return [lambda planes=planes: run(planes) for planes in sets]

        found = bench.best([own, *(c for c in candidates(columns) if c != own)], calls)
        if bench.warm or not found:
            continue
        ranked = sorted(found, key=found.get)
        best = ranked[0]

        def line(c: Any, found=found, n_bytes=n_bytes) -> str:
            rate = n_bytes / found[c] / 1e3
            return (
                f"{found[c]:7.2f} us {rate:5.0f} GB/s {100 * rate / ceilings.read_gb_s:3.0f}% "
                f"{c.rows}x w{c.num_warps} p{c.programs_per_sm}"
            )

        label = f"{name} {'+'.join(dict.fromkeys(kinds))}"
        print(f"  {label:18} now {line(own) if own in found else 'failed'}   best {line(best)}")
        print("     then " + ", ".join(
            f"{c.rows}x w{c.num_warps} p{c.programs_per_sm} {found[c]:.2f}" for c in ranked[1:7]
        ), flush=True)  # fmt: skip


def time_attention(bench: Bench, ceilings: Ceilings) -> None:
    print("decode attention with rotation and cache write, us a layer")
    for name, heads, kv_heads, dim in (
        ("8B", 32, 8, 128), ("7B", 32, 32, 128), ("3B", 16, 2, 128), ("135M", 9, 3, 64),
    ):  # fmt: skip
        group = heads // kv_heads
        for context in (576, 4000):
            caches = torch.randn(24, 2, kv_heads, 4096, dim, device="cuda").half()
            qkv = torch.randn((heads + 2 * kv_heads) * dim, device="cuda")
            cos_sin = torch.randn(4096, dim, device="cuda")
            position = torch.tensor([context], dtype=torch.int32, device="cuda")
            out = empty_vector(heads * dim, torch.device("cuda", 0))
            assert dim in PACKED_HEADS
            found = {}
            for at_once in sorted({group, max(1, group // 2), max(1, group // 4), 1}):
                if group % at_once:
                    continue
                for splits in (2, 3, 5, 8, 9, 16, 17, 32):
                    if splits * heads // at_once > 1056:
                        continue
                    work = attention_decode.AttentionWorkspace(
                        heads, kv_heads, dim, 4096, torch.device("cuda", 0), at_once, splits
                    )

                    def run(k: torch.Tensor, v: torch.Tensor, work: Any = work, qkv=qkv,
                            position=position, cos_sin=cos_sin, out=out) -> None:  # fmt: skip
                        attention_decode.decode_attention(qkv, position, cos_sin, k, v, out, work)

                    calls = [lambda pair=pair, run=run: run(*pair) for pair in caches]
                    found |= bench.best([(at_once, splits)], lambda _, calls=calls: calls)
            if bench.warm:
                break
            auto = attention_decode.AttentionWorkspace(
                heads, kv_heads, dim, 4096, torch.device("cuda", 0)
            )
            ranked = sorted(found, key=found.get)
            first = ", ".join(f"{h} heads /{s}: {found[h, s]:.2f}" for h, s in ranked[:6])
            now = found.get((auto.heads, auto.splits))
            print(
                f"  {name:4} {context:5}: now {auto.heads} heads /{auto.splits}: "
                f"{'-' if now is None else f'{now:.2f}'}   best {first}",
                flush=True,
            )


def run_model(name: str, bench: Bench, ceilings: Ceilings) -> None:
    shape, *peer = MODELS[name]
    began = time.monotonic()
    model = open_model(f"synthetic:{shape}")
    device = torch.device("cuda", 0)
    runner = GpuModel(model, context=4096, device=device)
    runner.close()
    load_s = time.monotonic() - began
    if bench.warm:
        return
    row: dict[str, Any] = {"name": name, "peer": peer, "load_s": load_s}
    row["file_gb"] = model.info.size_bytes / 1e9
    row["packed_gb"] = runner.weights.bytes_per_token / 1e9
    row["kv_gb"] = runner.program.cache_bytes / 1e9
    row["vram_gb"] = torch.cuda.max_memory_reserved() / 1e9
    row |= launches_alone(runner, model.config.vocab_size)
    row |= through_the_engine(runner, model.config.vocab_size)
    row["ceiling_gb_s"] = ceilings.read_gb_s
    print("ROW " + json.dumps(row), flush=True)
    print_step_parts(runner)


def launches_alone(runner: GpuModel, vocab_size: int) -> dict[str, float]:
    """Device time of a prefill of 512 and of 128 steps after it, as llama-bench counts."""
    prompt = [(37 * i + 11) % (vocab_size - 100) for i in range(PROMPT_TOKENS)]
    runner.begin(prompt, SamplingParams(temperature=0))
    prefill_s, decode_s = [], []
    for _ in range(6):
        torch.cuda.synchronize()
        began = time.perf_counter()
        runner.prefill(prompt, 0)
        torch.cuda.synchronize()
        prefill_s.append(time.perf_counter() - began)
        runner.choose()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(OUTPUT_TOKENS):
            ticket = runner.decode()
        runner.token(ticket)
        decode_s.append(time.perf_counter() - began)
    return {
        "prefill_tok_s": PROMPT_TOKENS / statistics.median(prefill_s),
        "decode_tok_s": OUTPUT_TOKENS / statistics.median(decode_s),
    }


def through_the_engine(runner: GpuModel, vocab_size: int) -> dict[str, float]:
    """TTFT and the rate after it, prompts without a shared prefix."""
    engine = GpuEngine(runner, context=4096, prompt_cache=False)
    ttft_s, rate = [], []
    for turn in range(4):
        prompt = tuple((31 * i + 7 * turn) % (vocab_size - 100) for i in range(PROMPT_TOKENS))
        sampling = SamplingParams(temperature=0)
        engine.add(GenerationRequest(str(turn), prompt, OUTPUT_TOKENS, sampling))
        began, first, last = time.perf_counter(), 0.0, 0.0
        while engine.has_work():
            for output in engine.step():
                last = time.perf_counter()
                first = first or last
                assert len(output.token_ids) == 1
        ttft_s.append(first - began)
        rate.append((OUTPUT_TOKENS - 1) / (last - first))
    return {"ttft_ms": 1e3 * statistics.median(ttft_s), "engine_tok_s": statistics.median(rate)}


def print_step_parts(runner: GpuModel) -> None:
    """Mean us of each kernel of one decode step, by its name, as the profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(3):
                runner.decode()
            torch.cuda.synchronize()
        totals = {e.key[:40]: (e.device_time_total / 3, e.count // 3) for e in seen.key_averages()}
    except (RuntimeError, AttributeError) as error:
        print(f"    no profile: {str(error)[:200]}")
        return
    top = sorted(totals, key=lambda key: -totals[key][0])[:8]
    for key in top:
        print(f"    {totals[key][0]:9.1f} us a step in {totals[key][1]:4} launches of {key}")


SECTIONS: dict[str, Callable[[Bench, Ceilings], None]] = {
    "check": check,
    **{f"check:{kind}": lambda b, c, kind=kind: check_kind(kind, b) for kind in FORMATS},
    "attention": time_attention,
}
PRODUCTS = list(dict.fromkeys(product_group(name, kinds) for name, kinds, *_ in SHAPES))
for _name in PRODUCTS:
    SECTIONS[f"product:{_name}"] = lambda b, c, name=_name: time_products(name, b, c)
for _name in MODELS:
    SECTIONS[f"model:{_name}"] = lambda b, c, name=_name: run_model(name, b, c)


def run_sections(names: list[str], ceilings: Ceilings, warm: bool, budget_s: float) -> None:
    bench = Bench(warm, time.monotonic() + budget_s)
    for name in names:
        torch.manual_seed(1)
        began = time.monotonic()
        try:
            SECTIONS[name](bench, ceilings)
        except FAILURES as error:
            print(f"  ! section {name}: {type(error).__name__}: {str(error)[:400]}", flush=True)
            traceback.print_exc(limit=-6)
        if time.monotonic() - began > 5:
            print(f"  [{name}: {time.monotonic() - began:.0f} s]", flush=True)


def start(
    name: str, ceilings: Ceilings, budget_s: float, *flags: str, out: Any = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--section", name, "--budget-s", str(budget_s)]
    command += ["--ceilings", json.dumps(asdict(ceilings)), *flags]
    return subprocess.Popen(command, stdout=out, stderr=out and subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes], name: str, limit_s: float) -> None:
    try:
        process.wait(timeout=max(1.0, limit_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode:
        print(f"  ! {name} ended with status {process.returncode}", flush=True)


def together(names: list[str]) -> list[str]:
    """Sections that share a process: models each have their own."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = name if name.startswith("model:") else "check" if "check" in name else "times"
        groups.setdefault(key, []).append(name)
    return [",".join(group) for group in groups.values()]


def print_table(rows: list[dict[str, Any]]) -> None:
    print(
        "\nmodel       file GB  VRAM-KV  load s | decode tok/s  engine  peer  x     target GB/s "
        "ceiling | prefill tok/s  peer    x    target  TTFT ms"
    )
    for row in rows:
        decode_peer, prefill_peer, decode_target, prefill_target = row["peer"]
        gb_s = row["packed_gb"] * row["decode_tok_s"]
        print(
            f"{row['name']:11} {row['file_gb']:7.2f}  {row['vram_gb'] - row['kv_gb']:7.2f} "
            f"{row['load_s']:7.1f} | {row['decode_tok_s']:12.1f} {row['engine_tok_s']:7.1f} "
            f"{decode_peer:6.1f} {row['decode_tok_s'] / decode_peer:4.2f} {decode_target:7} "
            f"{gb_s:5.0f} {100 * gb_s / row['ceiling_gb_s']:6.0f}% | {row['prefill_tok_s']:13.0f} "
            f"{prefill_peer:6} {row['prefill_tok_s'] / prefill_peer:5.2f} {prefill_target:7} "
            f"{row['ttft_ms']:7.1f}"
        )


def run_all(names: list[str], budget_s: float) -> None:
    began = time.monotonic()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"early starts: {dependent_launch.launch_options(torch.device('cuda', 0))}",
        flush=True,
    )
    nothing = Ceilings(1.0, 1.0, 1.0, 1.0)
    with open("/dev/null", "wb") as null:
        warming = [start(name, nothing, budget_s / 3, "--warm", out=null) for name in names]
        for process, name in zip(warming, names, strict=True):
            finish(process, f"compiling {name}", 0.38 * budget_s - (time.monotonic() - began))
    print(f"compiled in {time.monotonic() - began:.0f} s")
    ceilings = measure_ceilings()
    torch.cuda.empty_cache()
    print(
        f"ceilings: copy {ceilings.copy_gb_s:.0f} GB/s, read {ceilings.read_gb_s:.0f} GB/s, bf16 "
        f"{ceilings.bf16_tflop_s:.0f} TFLOP/s, a launch in a graph {ceilings.launch_us:.2f} us",
        flush=True,
    )
    rows = []
    for group in together(names):
        left = budget_s - (time.monotonic() - began)
        if left < 5:
            print(f"  ! no time left for {group}")
            continue
        with tempfile.TemporaryFile() as log:
            group_began = time.monotonic()
            finish(start(group, ceilings, left - 5, out=log), group, left + 10)
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()
        print(f"[{group[:60]}: {time.monotonic() - group_began:.0f} s]")
        rows += [json.loads(line[4:]) for line in lines if line.startswith("ROW ")]
        print("\n".join(line for line in lines if not line.startswith("ROW ")), flush=True)
    if rows:
        print_table(rows)
    print(f"done in {time.monotonic() - began:.0f} s")


def main() -> None:
    order = [
        *(name for name in SECTIONS if "check" in name),
        *(f"model:{name}" for name in MODELS),
        "attention",
    ]
    order += [f"product:{name}" for name in PRODUCTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(order), help="sections, by comma")
    parser.add_argument("--budget-s", type=float, default=290.0, help="of all sections together")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--ceilings", help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        ceilings = Ceilings(**json.loads(options.ceilings))
        run_sections(options.section.split(","), ceilings, options.warm, options.budget_s)
    else:
        run_all(options.only.split(","), options.budget_s)


if __name__ == "__main__":
    main()
