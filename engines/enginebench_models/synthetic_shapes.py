"""True shapes of well-known models, for weights that are made up. Data only.

From the `config.json` that each model is published with.
"""

from __future__ import annotations

from dataclasses import replace

from enginebench_models.config import ModelConfig, RopeScaling

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
}
