"""ModelConfig from the `config.json` of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.architectures import Architecture, of_hf
from enginebench_models.config import Activation, Experts, ModelConfig, RopeScaling
from enginebench_models.json_file import read_json
from enginebench_models.rope_hf import HFRope, rope_from_hf

__all__ = ["HFConfig", "config_from_hf", "read_hf_config"]

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_SLIDING, _FULL = "sliding_attention", "full_attention"


class HFConfig(msgspec.Struct):
    """The keys that matter; others say nothing about the computation of these architectures."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rope_theta: float | None = None
    rope_local_base_freq: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    original_max_position_embeddings: int | None = None
    partial_rotary_factor: float | None = None
    tie_word_embeddings: bool | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str | None = None
    hidden_activation: str | None = None
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    max_window_layers: int | None = None
    sliding_window_pattern: int | None = None
    layer_types: list[str] | None = None
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    num_local_experts: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None
    qkv_bias: bool = True
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None


class _Kind(msgspec.Struct):
    model_type: str


def read_hf_config(folder: Path) -> tuple[str, HFConfig]:
    """`model_type`, and the rest of config.json, checked."""
    path = folder / "config.json"
    kind = read_json(path, _Kind).model_type
    try:
        of_hf(kind)
    except UnknownNameError as error:
        raise ModelError(f"{path}: {error}") from None
    return kind, read_json(path, HFConfig)


def config_from_hf(folder: Path, kind: str, config: HFConfig) -> ModelConfig:
    """The shape; ModelError names what is not supported."""
    architecture = of_hf(kind)
    _refuse(folder, config)
    heads = config.num_attention_heads
    if heads <= 0:
        raise ModelError(f"{folder}: num_attention_heads is {heads}")
    theta, scaling = _rope(folder, config, _FULL)
    window, marks = _sliding(folder, kind, config, architecture)
    head_dim = config.head_dim or config.hidden_size // heads
    scale = config.query_pre_attn_scalar if architecture.gemma else None
    tied = config.tie_word_embeddings
    return ModelConfig(
        architecture=architecture.name,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        n_heads=heads,
        n_kv_heads=heads if config.num_key_value_heads is None else config.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=architecture.gemma if tied is None else tied,
        attention_bias=(architecture.attention_bias and config.qkv_bias) or config.attention_bias,
        qk_norm=architecture.qk_norm,
        rope_pairs="halves",
        sliding_window=window,
        sliding_layers=marks,
        sliding_rope_theta=_sliding_theta(folder, config, architecture),
        attention_scale=scale**-0.5 if scale and scale != head_dim else None,
        attention_softcap=config.attn_logit_softcapping,
        final_softcap=config.final_logit_softcapping,
        embedding_scale=config.hidden_size**0.5 if architecture.gemma else None,
        activation=_activation(folder, config, architecture),
        post_norms=architecture.gemma,
        experts=_experts(folder, config, architecture),
    )


def _refuse(folder: Path, config: HFConfig) -> None:
    problems = {
        "its MLP has biases": config.mlp_bias,
        "it rotates part of a head only": _rotated_part(config) not in (None, 1.0),
        "some of its layers have no experts": bool(config.mlp_only_layers)
        or config.decoder_sparse_step != 1,
        "its weights are quantized; use a GGUF file": config.quantization_config is not None,
    }
    found = [problem for problem, is_there in problems.items() if is_there]
    if found:
        raise ModelError(f"{folder}: this model is not supported: {'; '.join(found)}")


def _rotated_part(config: HFConfig) -> float | None:
    given = config.rope_parameters or {}
    part: float | None = given.get("partial_rotary_factor", config.partial_rotary_factor)
    return part


def _activation(folder: Path, config: HFConfig, architecture: Architecture) -> Activation:
    """Gemma's first folders said "gelu" and meant its approximation by tanh."""
    if architecture.gemma:
        stated = config.hidden_activation or "gelu_pytorch_tanh"
    else:
        stated = config.hidden_act or "silu"
    if stated not in _ACTIVATIONS:
        raise ModelError(
            f"{folder}: this model is not supported: its activation is {stated} "
            f"(known: {', '.join(_ACTIVATIONS)})"
        )
    return _ACTIVATIONS[stated]


def _experts(folder: Path, config: HFConfig, architecture: Architecture) -> Experts | None:
    if not architecture.has_experts:
        return None
    count, used = config.num_local_experts or config.num_experts, config.num_experts_per_tok
    if count is None or used is None:
        raise ModelError(f"{folder}: config.json does not say how many experts there are")
    return Experts(
        count=count,
        used=used,
        size=config.moe_intermediate_size or config.intermediate_size,
        normalized=architecture.name == "mixtral" or config.norm_topk_prob,
        shared_size=config.shared_expert_intermediate_size,
    )


# ---------------------------------------------------------------- positions


def _rope(folder: Path, config: HFConfig, layers: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the layers of a kind; newer files hold both in `rope_parameters`."""
    given = config.rope_parameters or config.rope_scaling or {}
    given = given.get(layers, given) if _is_by_layer(given) else given
    beside = HFRope(
        where=str(folder),
        theta=config.rope_theta,
        context_length=config.max_position_embeddings,
        original_context_length=config.original_max_position_embeddings,
    )
    return rope_from_hf(given, beside)


def _is_by_layer(given: dict[str, Any]) -> bool:
    return isinstance(given.get(_FULL), dict) or isinstance(given.get(_SLIDING), dict)


def _sliding_theta(folder: Path, config: HFConfig, architecture: Architecture) -> float | None:
    """The base of sliding layers, where they have one of their own."""
    if config.rope_local_base_freq is not None:
        return config.rope_local_base_freq
    if not _is_by_layer(config.rope_parameters or {}):
        return architecture.sliding_rope_theta
    theta, scaling = _rope(folder, config, _SLIDING)
    if scaling is not None:
        raise ModelError(f"{folder}: RoPE scaling of sliding layers is not supported")
    return theta


def _sliding(
    folder: Path, kind: str, config: HFConfig, architecture: Architecture
) -> tuple[int | None, tuple[bool, ...] | None]:
    """The window, and which layers have it (None: all).

    Qwen models carry a window that is switched off unless `use_sliding_window` says so.
    """
    if not config.sliding_window:
        return None, None
    if config.layer_types is not None:
        return _by_layer_types(folder, config.sliding_window, config.layer_types)
    n_layers, period = config.num_hidden_layers, config.sliding_window_pattern
    if architecture.sliding_period is not None:
        return config.sliding_window, architecture.sliding_layers(n_layers, period)
    if kind.startswith("qwen"):
        if not config.use_sliding_window:
            return None, None
        first = config.max_window_layers or 0
        return config.sliding_window, tuple(layer >= first for layer in range(n_layers))
    return (None, None) if kind == "llama" else (config.sliding_window, None)


def _by_layer_types(
    folder: Path, window: int, kinds: list[str]
) -> tuple[int | None, tuple[bool, ...] | None]:
    strange = sorted(set(kinds) - {_SLIDING, _FULL})
    if strange:
        raise ModelError(f"{folder}: layers of the kinds {', '.join(strange)} are not supported")
    marks = tuple(kind == _SLIDING for kind in kinds)
    if not any(marks):
        return None, None
    return window, marks
