"""Times tile configurations of the quant engine's decode products at the shapes of models."""

from collections.abc import Callable
from typing import Any

import torch
import triton
from gpu_timing import Bench, Ceilings, sets_to_rotate
from quant_gpu_planes import random_planes

from enginebench_quant.kernels.gpu.configs import ProductConfig, gate_up_config, product_config
from enginebench_quant.kernels.gpu.planes import BLOCK, Planes
from enginebench_quant.kernels.gpu.product import gate_up, product
from enginebench_quant.kernels.gpu.vector import empty_vector, pack_vector, packs_inner

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


PRODUCTS = list(dict.fromkeys(product_group(name, kinds) for name, kinds, *_ in SHAPES))
