"""A model's config and weights as GGUF has them: the way back from `config_gguf`.

Weights may come from anywhere; if they hold rotary pairs as halves, those of llama models are
put in the order that GGUF files have, and what files of an architecture keep as one is joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from enginebench_models.architectures import named
from enginebench_models.block_fields import Bytes
from enginebench_models.config import Experts, ModelConfig
from enginebench_models.gguf import GGUFValue
from enginebench_models.rope_gguf import rope_metadata, rope_tensors
from enginebench_models.weights import Tensor, stacked

__all__ = ["config_metadata", "gguf_tensors"]

_MERGED = {
    "attn_q.weight": ("attn_qkv.weight", ("attn_q.weight", "attn_k.weight", "attn_v.weight")),
    "ffn_gate.weight": ("ffn_up.weight", ("ffn_gate.weight", "ffn_up.weight")),
}
_MERGED_AWAY = ("attn_k.weight", "attn_v.weight", "ffn_up.weight")


def config_metadata(name: str, config: ModelConfig) -> dict[str, GGUFValue]:
    """`general.*` and the keys of the architecture."""
    keys: dict[str, GGUFValue] = {
        "block_count": config.n_layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "vocab_size": config.vocab_size,
    }
    keys |= _attention_metadata(config) | rope_metadata(config.rope_scaling)
    if config.experts is not None:
        keys |= _expert_metadata(config.experts)
    architecture = named(config.architecture).gguf
    general: dict[str, GGUFValue] = {
        "general.architecture": architecture,
        "general.name": name,
        "general.quantization_version": 2,
    }
    return general | {f"{architecture}.{key}": value for key, value in keys.items()}


def _attention_metadata(config: ModelConfig) -> dict[str, GGUFValue]:
    keys: dict[str, GGUFValue | None] = {
        "attention.sliding_window": config.sliding_window,
        "attention.scale": config.attention_scale,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.final_softcap,
    }
    if config.sliding_window is not None:
        keys["rope.freq_base_swa"] = config.sliding_rope_theta
        marks = config.sliding_layers or (True,) * config.n_layers
        if marks != named(config.architecture).sliding_layers(config.n_layers):
            keys["attention.sliding_window_pattern"] = np.array(marks)
    return {key: value for key, value in keys.items() if value is not None}


def _expert_metadata(experts: Experts) -> dict[str, GGUFValue]:
    keys: dict[str, GGUFValue] = {
        "expert_count": experts.count,
        "expert_used_count": experts.used,
        "expert_feed_forward_length": experts.size,
        "expert_weights_norm": experts.normalized,
    }
    if experts.shared_size is not None:
        keys["expert_shared_feed_forward_length"] = experts.shared_size
    return keys


def gguf_tensors(weights: Mapping[str, Tensor], config: ModelConfig) -> list[Tensor]:
    """The tensors in their order, and what GGUF holds beside them."""
    tensors = [_with_gguf_rows(tensor, config) for tensor in weights.values()]
    if named(config.architecture).merged:
        tensors = list(_merged({tensor.name: tensor for tensor in tensors}))
    return [*tensors, *rope_tensors(config)]


def _with_gguf_rows(tensor: Tensor, config: ModelConfig) -> Tensor:
    """GGUF files of llama models hold the rows that rotate together side by side."""
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(tensor.name.split(".")[-2])
    in_files = named(config.architecture).gguf_pairs
    if in_files == config.rope_pairs or heads is None:
        return tensor

    def load() -> Bytes:
        rows = tensor.data.reshape(heads, 2, config.head_dim // 2, -1)
        return np.ascontiguousarray(rows.swapaxes(1, 2))

    return replace(tensor, load=load)


def _merged(tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    for name, tensor in tensors.items():
        layer, _, rest = name.removeprefix("blk.").partition(".")
        if rest in _MERGED:
            target, parts = _MERGED[rest]
            yield stacked(f"blk.{layer}.{target}", [tensors[f"blk.{layer}.{p}"] for p in parts])
        elif rest not in _MERGED_AWAY:
            yield tensor
