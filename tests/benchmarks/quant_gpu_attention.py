"""Times splits of a context in the quant engine's decode attention."""

from typing import Any

import torch
from gpu_timing import Bench, Ceilings

from enginebench_quant.kernels.gpu import attention_decode
from enginebench_quant.kernels.gpu.vector import PACKED_HEADS, empty_vector


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
