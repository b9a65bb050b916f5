"""ModelConfig from the `config.json` of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.config import ModelConfig, RopeScaling
from enginebench_models.json_file import read_json

__all__ = ["HFConfig", "config_from_hf", "read_hf_config"]

# `model_type` -> the architecture whose computation it is.
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


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
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    layer_types: list[str] | None = None
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None


class _Kind(msgspec.Struct):
    model_type: str


def read_hf_config(folder: Path) -> tuple[str, HFConfig]:
    """`model_type`, and the rest of config.json, checked."""
    path = folder / "config.json"
    kind = read_json(path, _Kind).model_type
    if kind not in _ARCHITECTURES:
        raise ModelError(f"{path}: {UnknownNameError('model_type', kind, _ARCHITECTURES)}")
    return kind, read_json(path, HFConfig)


def config_from_hf(folder: Path, kind: str, config: HFConfig) -> ModelConfig:
    """The shape; ModelError names what is not supported."""
    _refuse(folder, config)
    architecture = _ARCHITECTURES[kind]
    heads = config.num_attention_heads
    if heads <= 0:
        raise ModelError(f"{folder}: num_attention_heads is {heads}")
    theta, scaling = _rope(folder, config)
    return ModelConfig(
        architecture=architecture,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        n_heads=heads,
        n_kv_heads=heads if config.num_key_value_heads is None else config.num_key_value_heads,
        head_dim=config.head_dim or config.hidden_size // heads,
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=config.tie_word_embeddings,
        attention_bias=architecture == "qwen2" or config.attention_bias,
        qk_norm=architecture == "qwen3",
        rope_pairs="halves",
        sliding_window=_sliding_window(folder, kind, config),
    )


def _refuse(folder: Path, config: HFConfig) -> None:
    problems = {
        "its activation is not silu": config.hidden_act != "silu",
        "its MLP has biases": config.mlp_bias,
        "it rotates part of a head only": config.partial_rotary_factor not in (None, 1.0),
        "its weights are quantized; use a GGUF file": config.quantization_config is not None,
    }
    found = [problem for problem, is_there in problems.items() if is_there]
    if found:
        raise ModelError(f"{folder}: this model is not supported: {'; '.join(found)}")


def _rope(folder: Path, config: HFConfig) -> tuple[float, RopeScaling | None]:
    """Base and scaling; newer files hold both in `rope_parameters`."""
    given = config.rope_parameters or config.rope_scaling or {}
    theta = given.get("rope_theta", config.rope_theta)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ModelError(
            f"{folder}: RoPE scaling {kind!r} is not supported (known: default, linear, llama3)"
        )
    try:
        return float(theta or 10_000.0), None if kind == "default" else _scaling(kind, given)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: RoPE scaling {given} lacks or garbles {error}") from error


def _scaling(kind: str, given: dict[str, Any]) -> RopeScaling:
    factor = float(given["factor"])
    if kind == "linear":
        return RopeScaling("linear", factor=factor)
    return RopeScaling(
        "llama3",
        factor=factor,
        low_freq_factor=float(given["low_freq_factor"]),
        high_freq_factor=float(given["high_freq_factor"]),
        original_context_length=int(given["original_max_position_embeddings"]),
    )


def _sliding_window(folder: Path, kind: str, config: HFConfig) -> int | None:
    """Qwen models carry a window that is switched off unless `use_sliding_window` says so."""
    layers = set(config.layer_types or ())
    if len(layers) > 1:
        raise ModelError(f"{folder}: layers of several kinds ({', '.join(sorted(layers))})")
    if layers:
        return config.sliding_window if layers == {"sliding_attention"} else None
    if kind == "mistral" or (kind.startswith("qwen") and config.use_sliding_window):
        return config.sliding_window
    return None
