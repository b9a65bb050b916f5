"""What files keep as one matrix, as the separate tensors that the canonical names stand for.

Phi-3 files hold q, k and v in one matrix, and gate and up in another (which GGUF calls `ffn_up`).
Rows are whole blocks, so that every part is a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from enginebench.errors import ModelError
from enginebench_models.config import ModelConfig
from enginebench_models.weights import Tensor, rows_of

__all__ = ["separated"]


def separated(tensors: Iterable[Tensor], config: ModelConfig, where: str) -> Iterator[Tensor]:
    """The tensors, with merged matrices taken apart."""
    q_size, kv_size = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    inner = config.intermediate_size
    cuts = {
        "attn_qkv.weight": (("attn_q", q_size), ("attn_k", kv_size), ("attn_v", kv_size)),
        "ffn_up.weight": (("ffn_gate", inner), ("ffn_up", inner)),
    }
    for tensor in tensors:
        prefix, rest = _cut_name(tensor.name)
        if rest not in cuts:
            yield tensor
            continue
        begin = 0
        total = sum(size for _, size in cuts[rest])
        if tensor.shape[0] != total:
            raise ModelError(
                f"{where}: tensor {tensor.name!r} has {tensor.shape[0]}, not {total} rows"
            )
        for part, size in cuts[rest]:
            yield rows_of(tensor, f"{prefix}{part}.weight", begin, begin + size)
            begin += size


def _cut_name(name: str) -> tuple[str, str]:
    """`blk.3.ffn_up.weight` as `blk.3.` and `ffn_up.weight`."""
    head, layer, rest = [*name.split(".", 2), "", ""][:3]
    return f"{head}.{layer}.", rest
