"""Checks every paged kernel on this GPU against its twin, then times the candidates of `configs`.

    PYTHONPATH=engines:harness python3 tests/benchmarks/kernels_gpu.py [--only decode,gemv-3B-16]

Prints, a line a workload, the best candidate with its share of the ceilings measured in the same
run; WINNER lines end the sections that have one configuration, and belong in
enginebench_paged/kernels/configs.py. Each section is a process of its own, so that one that dies
takes no other along. All of them first run at once to compile (Triton keeps the results on disk),
then one after the other to be timed. Needs torch, triton and numpy.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict

import gpu_attention
import gpu_elementwise
import gpu_products
import gpu_sampling
import gpu_step
import torch
from gpu_timing import FAILURES, Bench, Ceilings, measure_ceilings

from enginebench_paged.kernels.configs import chip

TOLERANCE = 1e-2  # of bfloat16 products
SECTIONS: dict[str, Callable[[Bench, Ceilings], None]] = {
    "elementwise": gpu_elementwise.elementwise,
    "sampling": gpu_sampling.sampling,
    **{
        f"gemv-{model}-{rows[0]}": gpu_products.gemv(model, rows)
        for model in ("3B", "8B")
        for rows in ((1,), (16,), (64, 32))
    },
    "prefill": gpu_attention.prefill,
    "decode": gpu_attention.decode,
    "step": gpu_step.step,
}


def check(bench: Bench, ceilings: Ceilings) -> None:
    wrong = 0
    for module in (gpu_elementwise, gpu_products, gpu_sampling, gpu_attention):
        try:
            errors = module.errors()
        except FAILURES as error:
            _print_failure(f"check of {module.__name__}", error)
            wrong += 1
            continue
        bad = {name: error for name, error in errors.items() if not error < TOLERANCE}
        wrong += len(bad)
        worst = max(errors, key=lambda name: errors[name])
        print(f"  {module.__name__}: {len(errors)} checks, worst {errors[worst]:.1e} ({worst})")
        for name, error in bad.items():
            print(f"  ! WRONG {name}: {error:.2e}")
    print("CHECKS: " + (f"{wrong} WRONG" if wrong else "all kernels agree with their twins"))


def run_section(name: str, ceilings: Ceilings, warm: bool, budget_s: float, early: bool) -> None:
    torch.manual_seed(1)
    bench = Bench(warm, time.monotonic() + budget_s)
    section = check if name == "check" else SECTIONS[name]
    try:
        with nullcontext() if early else gpu_step.chip_with(dependent_launch=False):
            section(bench, ceilings)
    except FAILURES as error:
        _print_failure(f"section {name}", error)


def _print_failure(what: str, error: BaseException) -> None:
    print(f"  ! {what}: {type(error).__name__}: {str(error)[:300]}", flush=True)


def start(
    name: str, ceilings: Ceilings, budget_s: float, *flags: str, quiet: bool = False
) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--section", name, "--budget-s", str(budget_s)]
    command += ["--ceilings", json.dumps(asdict(ceilings)), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None)


def finish(process: subprocess.Popen[bytes], name: str, limit_s: float) -> None:
    try:
        process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode:
        print(f"  ! {name} ended with status {process.returncode}", flush=True)


def run_all(names: list[str], budget_s: float, *flags: str) -> None:
    began = time.monotonic()
    found = chip(torch.device("cuda", 0)).found
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; table: {found}", flush=True)
    nothing = Ceilings(1.0, 1.0, 1.0, 1.0)
    compiling = [start(name, nothing, budget_s / 3, "--warm", *flags, quiet=True) for name in names]
    for process in compiling:
        finish(process, "a compiling process", budget_s / 2)
    print(f"compiled in {time.monotonic() - began:.0f} s")
    ceilings = measure_ceilings()
    print(
        f"ceilings: copy {ceilings.copy_gb_s:.0f} GB/s, read {ceilings.read_gb_s:.0f} GB/s, bf16 "
        f"{ceilings.bf16_tflop_s:.0f} TFLOP/s, a launch in a graph {ceilings.launch_us:.2f} us",
        flush=True,
    )
    torch.cuda.empty_cache()
    for name in names:
        left = max(5.0, budget_s - (time.monotonic() - began))
        finish(start(name, ceilings, left, *flags), name, left + 20)
    print(f"done in {time.monotonic() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(["check", *SECTIONS]), help="sections, by comma")
    parser.add_argument("--budget-s", type=float, default=270.0, help="of all sections together")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--ceilings", help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--no-early-start", action="store_true", help="no kernel starts while the one before ends"
    )
    options = parser.parse_args()
    if options.section:
        ceilings = Ceilings(**json.loads(options.ceilings))
        early = not options.no_early_start
        run_section(options.section, ceilings, options.warm, options.budget_s, early)
    else:
        flags = ["--no-early-start"] if options.no_early_start else []
        run_all(options.only.split(","), options.budget_s, *flags)


if __name__ == "__main__":
    main()
