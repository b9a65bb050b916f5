"""True shapes of well-known models, for weights that are made up. Data only.

From the `config.json` that each model is published with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from enginebench_models.architectures import named
from enginebench_models.config import Experts, ModelConfig, RopeScaling

__all__ = ["SHAPES"]


def _smollm2(n_layers: int, hidden: int, inner: int, heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        architecture="llama",
        n_layers=n_layers,
        hidden_size=hidden,
        intermediate_size=inner,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=64,
        vocab_size=49_152,
        context_length=8192,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
    )


def _qwen2(n_layers: int, hidden: int, inner: int, heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        architecture="qwen2",
        n_layers=n_layers,
        hidden_size=hidden,
        intermediate_size=inner,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=hidden // heads,
        vocab_size=151_936,
        context_length=32_768,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=True,
    )


def _llama3(
    n_layers: int, hidden: int, inner: int, heads: int, stretch: float, *, tied: bool
) -> ModelConfig:
    return ModelConfig(
        architecture="llama",
        n_layers=n_layers,
        hidden_size=hidden,
        intermediate_size=inner,
        n_heads=heads,
        n_kv_heads=8,
        head_dim=hidden // heads,
        vocab_size=128_256,
        context_length=131_072,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling("llama3", factor=stretch),
        tie_word_embeddings=tied,
    )


def _gemma(architecture: str, *, n_layers: int, hidden_size: int, **shape: Any) -> ModelConfig:
    return ModelConfig(
        architecture=architecture,
        n_layers=n_layers,
        hidden_size=hidden_size,
        head_dim=256,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        sliding_layers=named(architecture).sliding_layers(n_layers),
        embedding_scale=hidden_size**0.5,
        activation="gelu_tanh",
        post_norms=True,
        **shape,
    )


SHAPES: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        architecture="llama",
        n_layers=2,
        hidden_size=64,
        intermediate_size=128,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        vocab_size=512,
        context_length=512,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": _smollm2(30, 576, 1536, 9, 3),
    "smollm2-360m": _smollm2(32, 960, 2560, 15, 5),
    "qwen2.5-0.5b": _qwen2(24, 896, 4864, 14, 2),
    "qwen2.5-1.5b": _qwen2(28, 1536, 8960, 12, 2),
    "qwen2.5-3b": _qwen2(36, 2048, 11_008, 16, 2),
    "qwen2.5-7b": replace(
        _qwen2(28, 3584, 18_944, 28, 4), vocab_size=152_064, tie_word_embeddings=False
    ),
    "llama-3.2-1b": _llama3(16, 2048, 8192, 32, 32.0, tied=True),
    "llama-3.2-3b": _llama3(28, 3072, 8192, 24, 32.0, tied=True),
    "llama-3.1-8b": _llama3(32, 4096, 14_336, 32, 8.0, tied=False),
    "llama-3.1-70b": _llama3(80, 8192, 28_672, 64, 8.0, tied=False),
    "llama-2-7b": ModelConfig(
        architecture="llama",
        n_layers=32,
        hidden_size=4096,
        intermediate_size=11_008,
        n_heads=32,
        n_kv_heads=32,
        head_dim=128,
        vocab_size=32_000,
        context_length=4096,
    ),
    "qwen3-8b": ModelConfig(
        architecture="qwen3",
        n_layers=36,
        hidden_size=4096,
        intermediate_size=12_288,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        vocab_size=151_936,
        context_length=40_960,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        qk_norm=True,
    ),
    "gemma-2-2b": _gemma(
        "gemma2",
        n_layers=26,
        hidden_size=2304,
        intermediate_size=9216,
        n_heads=8,
        n_kv_heads=4,
        vocab_size=256_000,
        context_length=8192,
        sliding_window=4096,
        attention_softcap=50.0,
        final_softcap=30.0,
    ),
    "gemma-3-1b": _gemma(
        "gemma3",
        n_layers=26,
        hidden_size=1152,
        intermediate_size=6912,
        n_heads=4,
        n_kv_heads=1,
        vocab_size=262_144,
        context_length=32_768,
        rope_theta=1_000_000.0,
        sliding_window=512,
        sliding_rope_theta=10_000.0,
        qk_norm=True,
    ),
    "phi-3-mini": ModelConfig(
        architecture="phi3",
        n_layers=32,
        hidden_size=3072,
        intermediate_size=8192,
        n_heads=32,
        n_kv_heads=32,
        head_dim=96,
        vocab_size=32_064,
        context_length=4096,
        sliding_window=2047,
    ),
    "mixtral-8x7b": ModelConfig(
        architecture="mixtral",
        n_layers=32,
        hidden_size=4096,
        intermediate_size=14_336,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        vocab_size=32_000,
        context_length=32_768,
        rope_theta=1_000_000.0,
        experts=Experts(count=8, used=2, size=14_336, normalized=True),
    ),
    "qwen1.5-moe-a2.7b": ModelConfig(
        architecture="qwen2moe",
        n_layers=24,
        hidden_size=2048,
        intermediate_size=5632,
        n_heads=16,
        n_kv_heads=16,
        head_dim=128,
        vocab_size=151_936,
        context_length=8192,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        attention_bias=True,
        experts=Experts(count=60, used=4, size=1408, normalized=False, shared_size=5632),
    ),
    "qwen3-30b-a3b": ModelConfig(
        architecture="qwen3moe",
        n_layers=48,
        hidden_size=2048,
        intermediate_size=6144,
        n_heads=32,
        n_kv_heads=4,
        head_dim=128,
        vocab_size=151_936,
        context_length=40_960,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        qk_norm=True,
        experts=Experts(count=128, used=8, size=768, normalized=True),
    ),
}
