"""A model's config and weights as GGUF has them: the way back from `config_gguf`.

Weights may come from anywhere; if they hold rotary pairs as halves, those of llama models are
put in the order that GGUF files have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from enginebench_models.block_fields import Bytes
from enginebench_models.config import ModelConfig
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf import GGUFValue
from enginebench_models.quantizers import quantize
from enginebench_models.weights import Tensor

__all__ = ["config_metadata", "gguf_tensors"]


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
    if config.sliding_window is not None:
        keys["attention.sliding_window"] = config.sliding_window
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_scaling.factor}
    general: dict[str, GGUFValue] = {
        "general.architecture": config.architecture,
        "general.name": name,
        "general.quantization_version": 2,
    }
    return general | {f"{config.architecture}.{key}": value for key, value in keys.items()}


def gguf_tensors(weights: Mapping[str, Tensor], config: ModelConfig) -> list[Tensor]:
    """The tensors in their order, and what GGUF holds beside them."""
    tensors = [_with_gguf_rows(tensor, config) for tensor in weights.values()]
    if config.rope_scaling is not None and config.rope_scaling.kind != "linear":
        tensors.append(_frequency_factors(config))
    return tensors


def _with_gguf_rows(tensor: Tensor, config: ModelConfig) -> Tensor:
    """GGUF files of llama models hold the rows that rotate together side by side."""
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(tensor.name.split(".")[-2])
    if config.architecture != "llama" or config.rope_pairs == "adjacent" or heads is None:
        return tensor

    def load() -> Bytes:
        rows = tensor.data.reshape(heads, 2, config.head_dim // 2, -1)
        return np.ascontiguousarray(rows.swapaxes(1, 2))

    return replace(tensor, load=load)


def _frequency_factors(config: ModelConfig) -> Tensor:
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    factors = config.rope_theta**-exponents / config.inverse_frequencies()
    data = quantize(factors.astype(np.float32), GGMLType.F32)
    return Tensor("rope_freqs.weight", GGMLType.F32, factors.shape, lambda: data)
