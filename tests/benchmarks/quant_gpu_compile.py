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

from enginebench_quant.kernels.gpu import (
    attention_decode,
    attention_prefill,
    choose,
    configs,
    elementwise,
    expand,
    product,
)
from enginebench_quant.kernels.gpu.planes import BLOCK, FORMATS

SCALE_TYPES = {
    "d": "*fp16", "dm": "*i32", "k": "*i16", "k16": "*i16", "ks": "*i8", "e8": "*u8"
}  # fmt: skip


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
    supers = "*i32" if form.scales == "k" else "*fp16"
    scales = SCALE_TYPES[form.scales]
    names = ("codes", "high", "scales", "supers")
    return {f"{prefix}{n}": t for n, t in zip(names, ("*i32", "*i32", scales, supers), strict=True)}


def products() -> Iterator[Build]:
    vectors = {"x": "*fp32", "norm": "*fp32", "eps": "fp32", "bias": "*fp32", "out": "*fp32"}
    for label, kinds, rows, blocks, norm in (
        ("8B qk", ["Q4_K"], 5120, 128, True),
        ("8B qk x4", ["Q4_K"], 5120, 128, True),
        ("8B down x4", ["Q4_K"], 4096, 448, False),
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
        ("8B o", ["IQ4_XS"], 4096, 128, False),
        ("8B down", ["IQ4_NL"], 4096, 448, False),
        ("8B o", ["MXFP4"], 4096, 128, False),
    ):
        config = configs.product_config(rows, blocks)
        upper, lower = FORMATS[kinds[0]], FORMATS[kinds[-1]]
        constants = {
            "T": 4 if label.endswith("x4") else 1,
            "BLOCKS": blocks, "BT": triton.next_power_of_2(blocks), "R": config.rows,
            "CODES": upper.codes, "SCALES": upper.scales, "ZERO": upper.zero,
            "BELOW": len(kinds) == 2, "BELOW_CODES": lower.codes, "BELOW_SCALES": lower.scales,
            "BELOW_ZERO": lower.zero, "NORM": norm, "BIAS": False, "ADD": not norm,
            "PACKED": not norm, "NATIVE": True,
        }  # fmt: skip
        packed = {} if norm else {"x": "*i32"}
        types = (
            vectors
            | packed
            | {"x_scales": "*fp32", "x_sums": "*i32"}
            | plane_types("", kinds[0])
            | plane_types("below_", kinds[-1])
        )
        yield Build(
            f"{label} {'+'.join(kinds)}", product._product_kernel, types, constants,
            {"num_warps": config.num_warps}, ("programs", "below_programs"),
        )  # fmt: skip
    for label, kind, rows, blocks in (
        ("8B", "Q4_K", 14336, 128), ("8B x4", "Q4_K", 14336, 128), ("8B", "Q8_0", 14336, 128),
        ("3B", "Q4_K", 11008, 64),
        ("135M", "Q4_1", 1536, 18), ("7B", "Q4_0", 11008, 128), ("8B", "IQ4_XS", 14336, 128),
        ("gemma", "Q4_0", 9216, 72),
    ):  # fmt: skip
        form = FORMATS[kind]
        config = configs.gate_up_config(blocks, is_super=form.file_values > BLOCK)
        constants = {
            "T": 4 if label.endswith("x4") else 1,
            "BLOCKS": blocks, "BT": triton.next_power_of_2(blocks), "R": config.rows,
            "CODES": form.codes, "SCALES": form.scales, "ZERO": form.zero,
            "UP_CODES": form.codes, "UP_SCALES": form.scales, "UP_ZERO": form.zero, "NATIVE": True,
            "UNIT": 32 if rows > 4000 else config.rows, "PACKED": rows > 4000,
            "GELU": label == "gemma",
        }  # fmt: skip
        packed = {"out": "*i32"} if rows > 4000 else {}
        types = (
            vectors
            | packed
            | {"out_scales": "*fp32", "out_sums": "*i32"}
            | plane_types("", kind)
            | plane_types("up_", kind)
        )
        yield Build(
            f"{label} gate_up {kind}", product._gate_up_kernel, types, constants,
            {"num_warps": config.num_warps}, ("programs", "units"),
        )  # fmt: skip


def expansions() -> Iterator[Build]:
    for kind in ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "IQ4_XS", "MXFP4"):
        form = FORMATS[kind]
        for chosen in (False, True):
            constants = {
                "BLOCKS": 128, "BT": 64, "R": 1 if chosen else 4, "CODES": form.codes,
                "SCALES": form.scales, "ZERO": form.zero, "CHOSEN": chosen, "NATIVE": True,
            }  # fmt: skip
            types = plane_types("", kind) | {"ids": "*i32", "out": "*fp32" if chosen else "*bf16"}
            name = f"{'embed' if chosen else 'expand'} {kind}"
            options = {"num_warps": 2 if chosen else 4}
            yield Build(name, expand._expand_kernel, types, constants, options)


def attention() -> Iterator[Build]:
    caches = {"k_cache": "*fp16", "v_cache": "*fp16", "cos_sin": "*fp32", "span": "*i32"}
    floats = dict.fromkeys(("q_norm", "k_norm", "partial", "partial_lse", "bias"), "*fp32")
    types = caches | floats | {"position": "*i32", "arrived": "*i32"}
    types |= {"eps": "fp32", "scale": "fp32", "softcap": "fp32"}
    for label, heads, kv_heads, dim in (
        ("8B", 32, 8, 128), ("3B", 16, 2, 128), ("7B", 32, 32, 128), ("135M", 9, 3, 64),
        ("gemma", 8, 4, 256),
    ):  # fmt: skip
        is_gemma = label == "gemma"
        sight = {"WINDOW": 4096 if is_gemma else 0, "CAPPED": is_gemma}
        at_once = configs.attention_heads(heads, heads // kv_heads)
        splits = configs.attention_splits(heads // at_once, 4096, attention_decode._TILE)
        constants = {
            "N_HEADS": heads, "N_KV_HEADS": kv_heads, "HEADS": at_once, "HEADS_PAD": 16,
            "HALF": dim // 2, "HALF_PAD": dim // 2, "D_PAD": dim, "TILE": attention_decode._TILE,
            "SPLITS": splits, "SPLITS_PAD": splits, "NORMED": False, "PACKED": True,
        } | sight  # fmt: skip
        options = {"num_warps": 4 if dim <= 128 else 8, "num_stages": 1}
        decode = {"qkv": "*fp32", "out": "*i32", "out_scales": "*fp32", "out_sums": "*i32"}
        kernel = attention_decode._decode_kernel
        for quantized in (False, True):
            rows = {"k_scales": "*fp16", "v_scales": "*fp16"}
            if quantized:
                rows |= {"k_cache": "*i8", "v_cache": "*i8"}
            own = constants | {"QUANTIZED": quantized}
            name = f"decode {label}{' q8_0' if quantized else ''}"
            warps = {"num_warps": 8 if dim > (64 if quantized else 128) else 4}
            yield Build(name, kernel, types | decode | rows, own, options | warps)
        constants = {
            "N_HEADS": heads, "GROUP": heads // kv_heads, "D": dim, "D_PAD": dim,
            "ROWS": 128 if dim <= 128 else 64, "TILE": 64,
        } | sight  # fmt: skip
        options = {"num_warps": 8, "num_stages": 3 if dim <= 128 else 2}
        kernel = attention_prefill._prefill_kernel
        yield Build(
            f"prefill {label}", kernel, types | {"q": "*fp16", "out": "*bf16"}, constants, options
        )
        constants = {
            "N_HEADS": heads, "N_KV_HEADS": kv_heads, "HALF": dim // 2, "HALF_PAD": dim // 2,
            "HEADS": 4, "BIAS": True, "NORMED": False,
        }  # fmt: skip
        kernel = elementwise._rope_cache_kernel
        rope = types | {"qkv": "*bf16", "q_out": "*fp16"}
        yield Build(f"rope {label}", kernel, rope, constants, {"num_warps": 1})


def rows() -> Iterator[Build]:
    types = {"x": "*fp32", "delta": "*bf16", "weight": "*fp32", "out": "*bf16", "eps": "fp32"}
    constants = {"COLUMNS": 4096, "BLOCK": 4096, "ADD": True, "NORM": True}
    yield Build(
        "add_rms_norm", elementwise._add_rms_norm_kernel, types, constants, {"num_warps": 8}
    )
    types = {"gate_up": "*bf16", "out": "*bf16"}
    constants = {"COLUMNS": 14336, "BLOCK": 2048, "GELU": False}
    yield Build("gate_mul", elementwise._gate_mul_kernel, types, constants, {"num_warps": 4})
    types = dict.fromkeys(("logits", "settings", "bar", "tile_key"), "*fp32")
    types |= dict.fromkeys(("seen", "counts", "state", "tile_token", "arrived"), "*i32")
    constants = {"TILE": choose.TILE, "TILES_PAD": 128}
    kernel = choose._choose_kernel
    yield Build(
        "choose", kernel, types | {"seed": "*i64"}, constants, {"num_warps": 4}, ("n_tiles",)
    )


def builds() -> Iterator[Build]:
    yield from products()
    yield from expansions()
    yield from attention()
    yield from rows()


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
