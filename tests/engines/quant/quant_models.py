"""Tiny random models made in memory, and what plain numpy says of them."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
from numpy.typing import NDArray

from enginebench.types import ModelInfo
from enginebench_models import (
    GGMLType,
    Model,
    ModelConfig,
    Tensor,
    Tokenizer,
    Weights,
    expected_shapes,
    quantize,
)
from enginebench_models.synthetic import synthetic_weights
from enginebench_quant.kernels.file_blocks import FILE_BLOCKS
from enginebench_quant.kernels.reference import Shape

__all__ = [
    "TINY",
    "mixed_model",
    "random_blocks",
    "random_model",
    "reference_shape",
    "reference_weights",
    "with_flags",
]

TINY = ModelConfig(
    architecture="llama",
    n_layers=2,
    hidden_size=96,
    intermediate_size=160,
    n_heads=6,
    n_kv_heads=2,
    head_dim=16,
    vocab_size=211,
    context_length=512,
    rope_theta=10_000.0,
    rope_pairs="adjacent",
    tie_word_embeddings=True,
)


def random_blocks(type: str, rows: int, columns: int, seed: int) -> NDArray[np.uint8]:
    """(rows, bytes of a row): any bits, under finite factors of either sign."""
    random, kind = np.random.default_rng(seed), GGMLType[type]
    if type not in FILE_BLOCKS:
        values = random.standard_normal((rows, columns), np.float32)
        return quantize(values, kind).reshape(rows, -1)
    source = FILE_BLOCKS[type]
    data = random.integers(0, 256, (rows, columns // source.columns, source.n_bytes), np.uint8)
    for at in source.factors:
        if source.factor_bytes == 1:
            data[..., at] = random.integers(110, 130, data.shape[:2])
        else:
            factors = random.uniform(-1, 1, data.shape[:2]).astype(np.float16)
            data[..., at : at + 2] = factors[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def random_model(config: ModelConfig, type: str, seed: int = 0) -> Model:
    """Random weights, matrices as `type`, vectors as F32."""
    random = np.random.default_rng(seed)
    tensors = [
        _tensor(name, shape, GGMLType[type] if len(shape) == 2 else GGMLType.F32, random)
        for name, shape in expected_shapes(config).items()
    ]
    return Model(
        info=ModelInfo(name="tiny", format="gguf"),
        config=config,
        weights=Weights(tensors),
        chat_template=None,
        make_tokenizer=_no_tokenizer,
    )


def mixed_model(config: ModelConfig) -> Model:
    """Types mixed as in Q4_K_M files; weights depend on their names and shapes alone."""
    return Model(
        info=ModelInfo(name="mixed", format="gguf"),
        config=config,
        weights=synthetic_weights(config, "q4_k_m"),
        chat_template=None,
        make_tokenizer=_no_tokenizer,
    )


def _tensor(
    name: str, shape: tuple[int, ...], type: GGMLType, random: np.random.Generator
) -> Tensor:
    is_norm = name.endswith("norm.weight")
    values = random.normal(float(is_norm), 0.2 if len(shape) == 1 else shape[-1] ** -0.5, shape)
    data = _quantized(values.astype(np.float32), type).reshape(-1)
    return Tensor(name, type, shape, load=lambda: data)


def _quantized(values: NDArray[np.float32], type: GGMLType) -> NDArray[np.uint8]:
    """MXFP4 is read but not written here: the reference writes it."""
    if type is not GGMLType.MXFP4:
        return quantize(values, type)
    found: NDArray[np.uint8] = gguf.quantize(values, gguf.GGMLQuantizationType.MXFP4)
    return found


def _no_tokenizer() -> Tokenizer:
    raise AssertionError("engines know tokens only")


def reference_weights(model: Model) -> dict[str, NDArray[np.float32]]:
    """All weights as float32."""
    return {name: tensor.dequantize() for name, tensor in model.weights.items()}


def reference_shape(config: ModelConfig) -> Shape:
    """What the reference's `forward` must know."""
    return Shape(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        adjacent_pairs=config.rope_pairs == "adjacent",
        frequencies=config.inverse_frequencies(),
    )


def with_flags(**flags: object) -> ModelConfig:
    """TINY with other flags."""
    return replace(TINY, **flags)  # type: ignore[arg-type]
