"""Loads models of made-up weights at their true shapes and times them as llama-bench does."""

import json
import statistics
import time
from typing import Any

import torch
from gpu_timing import Bench, Ceilings

from enginebench_models import open_model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_quant.gpu.engine import GpuEngine
from enginebench_quant.gpu.model import GpuModel

MODELS = {  # synthetic name; llama.cpp's decode and prefill tok/s on an H100; our targets
    "8B-Q4_K_M": ("llama-3.1-8b@q4_k_m", 269.7, 9787, 430, 15000),
    "8B-Q8_0": ("llama-3.1-8b@q8_0", 231.9, 11183, 290, 13420),
    "7B-Q4_0": ("llama-2-7b@q4_0", 339.9, 11066, 560, 13280),
    "3B-Q4_K_M": ("qwen2.5-3b@q4_k_m", 386.5, 14353, 800, 17224),
    "135M-Q4_1": ("smollm2-135m@q4_1", 910.0, 49645, 1500, 59574),
}
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128


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
    row["kv_gb"] = runner.cache.n_bytes / 1e9
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
