"""Compiles the paged kernels for a chip that need not be here, and prints registers, spills and
memory.

    PYTHONPATH=engines:harness python tests/benchmarks/kernels_compile.py [--capability 90]

Shapes and configurations are those that an H100 gets for Qwen2.5-3B and Llama-3.1-8B. ptxas comes
with Triton. A kernel that spills, or whose stages exceed shared memory, shows here before a GPU
is asked for.
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

from enginebench_paged.kernels import (
    activation,
    attention_decode,
    attention_prefill,
    configs,
    fixed_attention,
    fixed_product,
    fp8,
    gemv,
    grouped,
    norm,
    quantized,
    rope_cache,
    sampling,
)

CHIP = configs._hopper(132)
FLOATS = {"eps": "fp32", "scale_log2": "fp32", "softcap": "fp32"}


@dataclass(frozen=True)
class Build:
    name: str
    kernel: Any
    types: dict[str, str]  # of the pointers and of the scalars that are no plain i32
    constants: dict[str, Any]
    options: dict[str, int]
    plain: tuple[str, ...] = ()  # integers that 16 need not divide


def builds() -> Iterator[Build]:
    yield from _small()
    yield from _attention()
    yield from _gemv()
    yield from _fixed()
    yield from _quantized()
    yield from _sampling()


def _small() -> Iterator[Build]:
    for add in (False, True):
        types = dict.fromkeys(("x", "residual", "weight", "out", "total_out"), "*bf16")
        constants = {"COLUMNS": 2048, "BLOCK": 2048, "ADD": add}
        name = "add_rms_norm" if add else "rms_norm"
        yield Build(name, norm._rms_norm_kernel, types, constants, {"num_warps": 4})
    types = {"gate_up": "*bf16", "out": "*bf16"}
    constants = {"COLUMNS": 11008, "BLOCK": 1024}
    yield Build("silu_mul", activation._silu_mul_kernel, types, constants, {"num_warps": 4})
    types = dict.fromkeys(("q", "k", "v", "k_cache", "v_cache", "q_norm", "k_norm", "out"), "*bf16")
    types |= {"positions": "*i64", "slots": "*i64", "cos_sin": "*fp32"}
    types |= {"k_scale": "*fp32", "v_scale": "*fp32"}
    for normed, in_fp8 in ((False, False), (True, False), (True, True)):
        cache = dict.fromkeys(("k_cache", "v_cache"), "*fp8e4nv" if in_fp8 else "*bf16")
        constants = {
            "BLOCK_SIZE": 16, "N_HEADS": 16, "N_KV_HEADS": 2, "HALF": 64, "HALF_PAD": 64,
            "HEADS": 4, "Q_NORMED": normed, "K_NORMED": normed,
            "SCALED": in_fp8,
        }  # fmt: skip
        name = f"rope_and_cache{' normed' if normed else ''}{' fp8' if in_fp8 else ''}"
        kernel = rope_cache._rope_cache_kernel
        yield Build(name, kernel, types | cache, constants, {"num_warps": 1})


def _attention() -> Iterator[Build]:
    decode, prefill = CHIP.decode, CHIP.prefill
    lists = {"block_tables": "*i32", "context_lens": "*i32", "query_starts": "*i32"}
    scales = {"k_scale": "*fp32", "v_scale": "*fp32"}
    plain_caches = dict.fromkeys(("q", "k_cache", "v_cache", "out"), "*bf16") | scales
    for label, heads, kv_heads, dim, window, softcap in (
        ("3B", 16, 2, 128, 0, False),
        ("8B", 32, 8, 128, 0, False),
        ("gemma", 8, 4, 256, 4096, True),
        ("dim 80", 32, 32, 80, 0, False),
        ("8B fp8", 32, 8, 128, 0, False),
        ("gemma fp8", 8, 4, 256, 4096, True),
    ):
        in_fp8 = label.endswith("fp8")
        held = dict.fromkeys(("k_cache", "v_cache"), "*fp8e4nv") if in_fp8 else {}
        caches = plain_caches | held
        d_pad = triton.next_power_of_2(dim)
        common = {
            "N_HEADS": heads, "GROUP": heads // kv_heads, "HEAD_DIM": dim, "D_PAD": d_pad,
            "BLOCK_SIZE": 16, "WINDOW": window, "SOFTCAP": softcap,
            "SCALED": in_fp8,
        }  # fmt: skip
        for split in (False, True):
            types = caches | lists | {"partial": "*fp32" if split else "*bf16"}
            types["partial_lse"] = types["partial"]
            tile = attention_decode.fitting_tile(decode, 16, 2 * d_pad, CHIP.shared_bytes)
            constants = common | {"GROUP_PAD": 16, "TILE": tile, "SPLIT": split}
            constants |= {"ROW_LINES": d_pad // 64, "LINE": 64}
            options = {"num_warps": decode.num_warps, "num_stages": decode.num_stages}
            name = f"decode {label}{' split' if split else ''}"
            yield Build(name, attention_decode._decode_kernel, types, constants, options)
        tile = attention_decode.fitting_tile(prefill, prefill.rows, 2 * d_pad, CHIP.shared_bytes)
        constants = common | {"ROWS": prefill.rows, "TILE": tile, "BATCH_PAD": 256}
        options = {"num_warps": prefill.num_warps, "num_stages": prefill.num_stages}
        yield Build(
            f"prefill {label}",
            attention_prefill._prefill_kernel,
            caches | lists,
            constants,
            options,
            plain=("batch",),
        )
    types = {"partial": "*fp32", "partial_lse": "*fp32", "out": "*bf16", "context_lens": "*i32"}
    for splits, warps in ((4, 2), (128, 8)):
        constants = {
            "N_HEADS": 16, "HEAD_DIM": 128, "D_PAD": 128, "SPLITS_PAD": splits, "TILE": 64,
            "WINDOW": 0,
        }  # fmt: skip
        yield Build(
            f"combine {splits}", attention_decode._combine_kernel, types, constants,
            {"num_warps": warps}, plain=("n_splits",),
        )  # fmt: skip


def _gemv() -> Iterator[Build]:
    for rows, config in {(min(64, max(16, r.max_m)), r.config) for r in CHIP.gemv if r.config}:
        split = config.split_k > 1
        types = {"x": "*bf16", "weight": "*bf16", "bias": "*bf16"}
        types["out"] = "*fp32" if split else "*bf16"
        constants = {
            "K": 2048, "ROWS": config.rows, "COLUMNS": config.columns, "EVEN_K": True,
            "SPLIT": split, "BIAS": not split,
        }  # fmt: skip
        options = {"num_warps": config.num_warps}
        tile = f"{config.rows}x{config.columns}/{config.split_k}"
        if isinstance(config, configs.DotConfig):
            name, kernel = f"gemv dot {rows} {tile}", gemv._dot_kernel
            constants["M_PAD"] = rows
            options["num_stages"] = config.num_stages
        else:
            name, kernel = f"gemv fma {tile}", gemv._fma_kernel
        yield Build(name, kernel, types, constants, options, plain=("M",))
    types = {"parts": "*fp32", "bias": "*bf16", "out": "*bf16"}
    constants = {"SPLIT_K": 4, "BLOCK": 512, "BIAS": True}
    yield Build("gemv sum of parts", gemv._sum_parts_kernel, types, constants, {"num_warps": 4})


def _fixed() -> Iterator[Build]:
    for split in (False, True):
        types = {"x": "*bf16", "weight": "*bf16", "bias": "*bf16"}
        types["out"] = "*fp32" if split else "*bf16"
        constants = {
            "K": 2048, "COLUMNS_EACH": 128, "PARTS": 16, "ROWS": 64, "OUTPUTS": 128, "DEPTH": 64,
            "SPLIT": split, "BIAS": not split,
        }  # fmt: skip
        name = f"fixed product{' split' if split else ''}"
        kernel, options = fixed_product._fixed_product_kernel, {"num_warps": 4, "num_stages": 3}
        yield Build(name, kernel, types, constants, options, plain=("M",))
    partials = ("partial", "partial_total", "partial_best")
    types = dict.fromkeys(("q", "k_cache", "v_cache", "out"), "*bf16")
    types |= dict.fromkeys(("block_tables", "context_lens", "query_starts"), "*i32")
    shape = {
        "N_HEADS": 16, "GROUP": 8, "HEAD_DIM": 128, "D_PAD": 128, "SEGMENT": 256, "TILE": 64,
        "WINDOW": 0, "SCALED": False,
    }  # fmt: skip
    for apart in (False, True):
        more = {"BATCH_PAD": 256, "ROWS": 64, "BLOCK_SIZE": 16, "SOFTCAP": False, "APART": apart}
        types |= dict.fromkeys(partials, "*fp32" if apart else "*bf16")
        options = {"num_warps": 8, "num_stages": 2}
        name = f"fixed attention{' apart' if apart else ''}"
        kernel = fixed_attention._segments_kernel
        yield Build(name, kernel, dict(types), shape | more, options, plain=("batch",))
    yield Build(
        "fixed attention join", fixed_attention._join_kernel, types, shape | {"GROUP_PAD": 8},
        {"num_warps": 4}, plain=("n_segments",),
    )  # fmt: skip


def _quantized() -> Iterator[Build]:
    for config in {rule.config for rule in CHIP.quantized}:
        for label, bits, held, per_row in (
            ("int4", 4, "*u8", False),
            ("int8", 8, "*u8", False),
            ("fp8", 8, "*fp8e4nv", True),
        ):
            zeros, split = bits == 4, config.split_k > 1
            types = {"x": "*bf16", "values": held, "scales": "*fp32" if per_row else "*bf16"}
            types |= {"zeros": "*u8", "bias": "*bf16", "out": "*fp32" if split else "*bf16"}
            constants = {
                "K": 4096, "GROUP": 128, "BITS": bits, "MIDDLE": 1 << (bits - 1),
                "PER_ROW": per_row, "ZEROS": zeros, "ROWS": config.rows, "EVEN_K": True,
                "SPLIT": split, "BIAS": not split,
            }  # fmt: skip
            options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
            name = f"{label} {config.rows}x{config.columns}/{config.split_k}"
            if config.columns == 1:
                kernel, constants["DEPTH"] = quantized._vector_kernel, config.depth
            else:
                kernel, constants["COLUMNS"] = quantized._matrix_kernel, config.columns
            yield Build(name, kernel, types, constants, options, plain=("M",))
    shape = {"N": 1536, "K": 2048, "GROUPS": 128, "GROUPS_PAD": 128, "TILE": 16, "COLUMNS": 64}
    shape |= {"DEPTH": 64, "INDIRECT": True, "EVEN_K": True}
    for label, bits, group in (("whole", 0, 0), ("int8", 8, 128), ("int4", 4, 128)):
        held = "*u8" if bits else "*bf16"
        types = {"x": "*bf16", "weights": held, "scales": "*bf16", "zeros": held, "out": "*bf16"}
        types |= {"offsets": "*i32", "rows": "*i64"}
        constants = shape | {
            "QUANTIZED": bool(bits), "GROUP": group, "BITS": bits, "MIDDLE": 1 << max(0, bits - 1),
            "PER_ROW": False, "ZEROS": bits == 4,
        }  # fmt: skip
        options = {"num_warps": 4, "num_stages": 3}
        yield Build(f"experts {label}", grouped._grouped_kernel, types, constants, options)
    types = {"x": "*bf16", "out": "*fp8e4nv", "scales": "*fp32"}
    constants = {"K": 14336, "BLOCK": 16384}
    yield Build("rows to fp8", fp8._rows_kernel, types, constants, {"num_warps": 16})


def _sampling() -> Iterator[Build]:
    config = CHIP.sample
    types = dict.fromkeys(
        ("temperature", "top_p", "min_p", "tile_max", "tile_mass", "tile_key"), "*fp32"
    )
    types |= {"top_k": "*i32", "tile_token": "*i32", "seeds": "*i64", "positions": "*i64"}
    types |= {"logits": "*bf16", "out": "*i64"}
    constants = {"TILE": config.tile}
    options = {"num_warps": config.num_warps}
    yield Build("sample tiles", sampling._tile_kernel, types, constants, options)
    constants = {"TILES_PAD": 64, "TILE": config.filter_tile}
    options = {"num_warps": config.filter_warps}
    yield Build("sample join", sampling._join_kernel, types, constants, options, ("n_tiles",))


def compiled(build: Build, target: GPUTarget) -> Any:
    names = build.kernel.arg_names
    build.constants["PDL"] = target.arch >= 90
    types = FLOATS | build.types
    signature = {
        name: "constexpr" if name in build.constants else types.get(name, "i32") for name in names
    }
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (index,): aligned
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
    print(f"{'kernel':28} warps registers spilled B  shared B  matrix  loads/stores")
    for build in builds():
        if options.only not in build.name:
            continue
        built = compiled(build, target)
        registers, spilled = resources(built, options.capability)
        ptx = built.asm["ptx"]
        matrix = "wgmma" if "wgmma.mma_async" in ptx else "mma" if "mma.sync" in ptx else "-"
        widths = sorted(set(re.findall(r"(?:ld|st)\.global[a-zA-Z_:0-9.]*\.(v\d)\.b32", ptx)))
        copies = set(
            re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], (0x\w+)", ptx)
        )
        wide = " ".join(widths + [f"cp.async {int(size, 16)} B" for size in sorted(copies)])
        print(
            f"{build.name:28} {build.options['num_warps']:5} {registers:9} {spilled:9} "
            f"{built.metadata.shared:9}  {matrix:6}  {wide}",
            flush=True,
        )


if __name__ == "__main__":
    main()
