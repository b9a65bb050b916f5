"""Compiles the quant engine's GPU kernels for a chip that need not be here: registers, spills,
memory.

    PYTHONPATH=engines:harness python tests/benchmarks/quant_gpu_compile.py [--only product]

Shapes are those of Llama-3.1-8B unless the name says otherwise. A kernel that spills shows here
before a GPU is asked for; `barriers` counts those of the whole kernel, `loads` its widest loads.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from enginebench_quant.kernels.gpu import configs, product
from enginebench_quant.kernels.gpu.planes import FORMATS

SCALE_TYPES = {"d": "*fp16", "dm": "*i32", "k": "*i16", "k16": "*i16"}


@dataclass(frozen=True)
class Build:
    name: str
    kernel: Any
    types: dict[str, str]  # of what is no plain i32
    constants: dict[str, Any]
    options: dict[str, int]
    plain: tuple[str, ...] = ()  # integers that 16 need not divide


def plane_types(prefix: str, kind: str) -> dict[str, str]:
    form = FORMATS[kind]
    supers = "*fp16" if form.scales == "k16" else "*i32"
    scales = SCALE_TYPES[form.scales]
    names = ("codes", "high", "scales", "supers")
    return {f"{prefix}{n}": t for n, t in zip(names, ("*i32", "*i32", scales, supers), strict=True)}


def products() -> Iterator[Build]:
    vectors = {"x": "*fp32", "norm": "*fp32", "eps": "fp32", "bias": "*fp32", "out": "*fp32"}
    for label, kinds, rows, blocks, norm in (
        ("8B qk", ["Q4_K"], 5120, 128, True),
        ("8B qk+v", ["Q4_K", "Q6_K"], 6144, 128, True),
        ("8B o", ["Q4_K"], 4096, 128, False),
        ("8B down", ["Q4_K"], 4096, 448, False),
        ("8B down", ["Q6_K"], 4096, 448, False),
        ("8B head", ["Q6_K"], 128256, 128, True),
        ("8B down", ["Q8_0"], 4096, 448, False),
        ("3B down", ["Q6_K"], 2048, 344, False),
        ("3B o", ["Q4_K"], 2048, 64, False),
        ("7B o", ["Q4_0"], 4096, 128, False),
        ("135M o", ["Q4_1"], 576, 18, False),
    ):
        config = configs.product_config(rows, blocks)
        upper, lower = FORMATS[kinds[0]], FORMATS[kinds[-1]]
        constants = {
            "BLOCKS": blocks, "BT": triton.next_power_of_2(blocks), "R": config.rows,
            "BITS": upper.bits, "SCALES": upper.scales, "ZERO": upper.zero,
            "BELOW": len(kinds) == 2, "BELOW_BITS": lower.bits, "BELOW_SCALES": lower.scales,
            "BELOW_ZERO": lower.zero, "NORM": norm, "BIAS": False, "ADD": not norm, "NATIVE": True,
        }  # fmt: skip
        types = vectors | plane_types("", kinds[0]) | plane_types("below_", kinds[-1])
        yield Build(
            f"{label} {'+'.join(kinds)}", product._product_kernel, types, constants,
            {"num_warps": config.num_warps}, ("programs", "below_programs"),
        )  # fmt: skip
    for label, kind, rows, blocks in (
        ("8B", "Q4_K", 14336, 128), ("8B", "Q8_0", 14336, 128), ("3B", "Q4_K", 11008, 64),
        ("135M", "Q4_1", 1536, 18), ("7B", "Q4_0", 11008, 128),
    ):  # fmt: skip
        config = product._halved(configs.product_config(2 * rows, blocks))
        form = FORMATS[kind]
        constants = {
            "BLOCKS": blocks, "BT": triton.next_power_of_2(blocks), "R": config.rows,
            "BITS": form.bits, "SCALES": form.scales, "ZERO": form.zero,
            "UP_BITS": form.bits, "UP_SCALES": form.scales, "UP_ZERO": form.zero, "NATIVE": True,
        }  # fmt: skip
        types = vectors | plane_types("", kind) | plane_types("up_", kind)
        yield Build(
            f"{label} gate_up {kind}", product._gate_up_kernel, types, constants,
            {"num_warps": config.num_warps}, ("programs",),
        )  # fmt: skip


def builds() -> Iterator[Build]:
    yield from products()


def compiled(build: Build, target: GPUTarget) -> Any:
    names = build.kernel.arg_names
    build.constants["PDL"] = target.arch >= 90
    signature = {
        name: "constexpr" if name in build.constants else build.types.get(name, "i32")
        for name in names
    }
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name not in build.constants
        and name not in build.plain
        and (signature[name].startswith("*") or signature[name] == "i32")
    }
    constants = {(names.index(name),): value for name, value in build.constants.items()}
    source = ASTSource(build.kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=build.options)


def resources(built: Any, capability: int) -> tuple[int, int]:
    """Registers a thread and spilled bytes, as ptxas reports them."""
    suffix = "a" if capability >= 90 else ""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(built.asm["ptx"])
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name=sm_{capability}{suffix}", str(ptx)]
        command += ["-o", str(ptx.with_suffix(".cubin"))]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", log))
    return int(re.findall(r"Used (\d+) registers", log)[0]), spilled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="90 for an H100")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    options = parser.parse_args()
    target = GPUTarget("cuda", options.capability, 32)
    print(f"{'kernel':28} rows warps registers spilled B  shared B  barriers  dp4a  loads")
    for build in builds():
        if options.only not in build.name:
            continue
        built = compiled(build, target)
        registers, spilled = resources(built, options.capability)
        ptx = built.asm["ptx"]
        widths = re.findall(r"ld\.global[a-zA-Z_:0-9.]*?(\.v\d)?\.b(\d+)", ptx)
        loads = {f"{v[1:] or 'v1'}x{b}": widths.count((v, b)) for v, b in sorted(set(widths))}
        print(
            f"{build.name:28} {build.constants.get('R', 0):4} {build.options['num_warps']:5} "
            f"{registers:9} {spilled:9} {built.metadata.shared:9} {ptx.count('bar.sync'):9} "
            f"{ptx.count('dp4a'):5}  {loads}",
            flush=True,
        )


if __name__ == "__main__":
    main()
