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
from gpu_timing import FAILURES, Bench, Ceilings, measure_ceilings
from quant_gpu_attention import time_attention
from quant_gpu_checks import check, check_kind
from quant_gpu_models import MODELS, print_table, run_model
from quant_gpu_products import PRODUCTS, time_products

from enginebench_quant.kernels.gpu import dependent_launch
from enginebench_quant.kernels.gpu.planes import FORMATS

SECTIONS: dict[str, Callable[[Bench, Ceilings], None]] = {
    "check": check,
    **{f"check:{kind}": lambda b, c, kind=kind: check_kind(kind, b) for kind in FORMATS},
    "attention": time_attention,
}
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
