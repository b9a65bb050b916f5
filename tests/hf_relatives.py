"""Tiny random models of the relatives of llama, made and saved by `transformers`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_HEADS = {"head_dim": 16}


def _gemma2() -> Any:
    import transformers

    return transformers.Gemma2Config(
        **_SHAPE,
        **_HEADS,
        sliding_window=9,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
    )


def _gemma3() -> Any:
    import transformers

    return transformers.Gemma3TextConfig(
        **_SHAPE,
        **_HEADS,
        sliding_window=9,
        query_pre_attn_scalar=16,
        tie_word_embeddings=False,  # tied and scaled, random ones would echo their own token
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )


def _phi3(original: int) -> Any:
    import transformers

    factors = {
        "short_factor": [1 + i / 4 for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
    }
    return transformers.Phi3Config(
        **_SHAPE,
        original_max_position_embeddings=original,
        sliding_window=20,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, **factors},
    )


def _mixtral() -> Any:
    import transformers

    return transformers.MixtralConfig(**_SHAPE, **_HEADS, num_local_experts=4)


def _qwen2moe() -> Any:
    import transformers

    return transformers.Qwen2MoeConfig(
        **_SHAPE,
        **_HEADS,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=96,
    )


def _qwen3moe() -> Any:
    import transformers

    return transformers.Qwen3MoeConfig(
        **_SHAPE,
        **_HEADS,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=32,
        norm_topk_prob=True,
    )


def _scaled(kind: str, **numbers: float) -> Any:
    import transformers

    rope = {"rope_type": kind, "rope_theta": 1e4, **numbers}
    return transformers.Qwen2Config(**_SHAPE, rope_parameters=rope)


_CONFIGS: dict[str, Callable[[], Any]] = {
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": lambda: _phi3(original=128),
    "mixtral": _mixtral,
    "qwen2moe": _qwen2moe,
    "qwen3moe": _qwen3moe,
    "yarn": lambda: _scaled("yarn", factor=4.0, original_max_position_embeddings=32),
    "linear": lambda: _scaled("linear", factor=4.0),
}
RELATIVES = tuple(_CONFIGS)


def relative_config(name: str) -> Any:
    """A transformers config."""
    return _CONFIGS[name]()


def save_random(config: Any, folder: Path, tokenizer_from: Path) -> Any:
    """A random model of that config, saved with a tokenizer; the model itself.

    Attention is computed as it is written down ("eager"): faster ways leave soft caps out in some
    versions.
    """
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    _randomize(model, norms_lack_one=config.model_type.startswith("gemma"))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_from / name, folder / name)
    return model


def _randomize(model: torch.nn.Module, *, norms_lack_one: bool) -> None:
    """Norms of 1 and biases of 0, as models are initialized, would hide how they are used."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            middle = 1.0 if "norm" in name and not norms_lack_one else 0.0
            torch.nn.init.uniform_(parameter, middle - 0.4, middle + 0.4)
        elif "expert" in name or name.endswith("mlp.gate.weight"):
            torch.nn.init.normal_(parameter, 0.0, 0.3)
