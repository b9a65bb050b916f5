"""`synthetic:NAME[@TYPE]`: made-up weights at the true shape of a model, to measure speed anywhere.

Each tensor is seeded by its name and made when its data is asked for, so a 70B model opens at once.
An engine may as well fill its own memory from `Tensor.shape` and `.type`: nobody reads the text.
"""

from __future__ import annotations

import hashlib
import math
from functools import partial

import numpy as np

from enginebench.errors import ModelError, UnknownNameError
from enginebench.types import ModelInfo
from enginebench_models.block_fields import Bytes
from enginebench_models.config import ModelConfig
from enginebench_models.ggml_types import GGMLType
from enginebench_models.model import Model
from enginebench_models.open_gguf import chat_template_from_gguf
from enginebench_models.ordinary import ordinary_range
from enginebench_models.quantizers import quantize
from enginebench_models.random_blocks import random_rows
from enginebench_models.shape import model_shape
from enginebench_models.synthetic_shapes import SHAPES
from enginebench_models.synthetic_vocabulary import vocabulary_metadata
from enginebench_models.tensor_shapes import expected_shapes
from enginebench_models.tokenizer_gguf import read_token_table, tokenizer_from_gguf
from enginebench_models.weights import Tensor, Weights

__all__ = ["PREFIX", "TYPE_NAMES", "open_synthetic", "synthetic_weights"]

PREFIX = "synthetic:"
_PLAIN = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q6_k")
TYPE_NAMES = (*_PLAIN, "q4_k_m")

# What takes the place of a type whose blocks do not divide the rows, as llama.cpp's quantizer does.
_FALLBACK = {GGMLType.Q4_K: GGMLType.Q5_0, GGMLType.Q6_K: GGMLType.Q8_0}


def open_synthetic(name: str) -> Model:
    """Open `synthetic:NAME[@TYPE]`; the type is bf16 if none is given."""
    shape_name, _, type_name = name.removeprefix(PREFIX).partition("@")
    if shape_name not in SHAPES:
        raise UnknownNameError("synthetic model", shape_name, SHAPES)
    if type_name not in ("", *TYPE_NAMES):
        raise UnknownNameError("synthetic weight type", type_name, TYPE_NAMES)
    config, precision = SHAPES[shape_name], type_name or "bf16"
    weights = synthetic_weights(config, precision)
    metadata = vocabulary_metadata(config.vocab_size)
    table = read_token_table(metadata, name)
    first, end = ordinary_range(config.vocab_size, len(table.texts), table.special_ids)
    info = ModelInfo(
        name=name,
        format="synthetic",
        architecture=config.architecture,
        parameters=weights.parameters,
        vocab_size=config.vocab_size,
        first_ordinary_token=first,
        ordinary_token_end=end,
        context_length=config.context_length,
        size_bytes=weights.size_bytes,
        precision=precision,
        weight_types=weights.matrix_types,
        shape=model_shape(config, weights),
    )
    template = chat_template_from_gguf(metadata, table)
    return Model(info, config, weights, template, partial(tokenizer_from_gguf, metadata, name))


def synthetic_weights(config: ModelConfig, precision: str) -> Weights:
    """Random tensors of a model of this shape; `precision` is one of TYPE_NAMES."""
    return Weights(
        _tensor(name, shape, _type(config, name, shape, precision))
        for name, shape in expected_shapes(config).items()
    )


def _type(config: ModelConfig, name: str, shape: tuple[int, ...], precision: str) -> GGMLType:
    if len(shape) == 1:
        return GGMLType.F32
    type = _q4_k_m(config, name) if precision == "q4_k_m" else GGMLType[precision.upper()]
    if type.is_quantized and name.endswith("ffn_gate_inp.weight"):
        return GGMLType.F32  # what chooses experts is never quantized
    if shape[-1] % type.block_size:
        type = _FALLBACK.get(type, type)
    if shape[-1] % type.block_size:
        raise ModelError(f"rows of {shape[-1]} values ({name}) cannot be stored as {precision}")
    return type


def _q4_k_m(config: ModelConfig, name: str) -> GGMLType:
    """The output head and half of the value and down projections are finer (llama.cpp's mix)."""
    head = "token_embd.weight" if config.tie_word_embeddings else "output.weight"
    if name == head:
        return GGMLType.Q6_K
    if name.endswith(("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight")):
        layer, eighth = int(name.split(".")[1]), config.n_layers // 8
        if layer < eighth or layer >= 7 * config.n_layers // 8 or (layer - eighth) % 3 == 2:
            return GGMLType.Q6_K
    return GGMLType.Q4_K


def _tensor(name: str, shape: tuple[int, ...], type: GGMLType) -> Tensor:
    return Tensor(name, type, shape, partial(_generate, name, shape, type))


def _generate(name: str, shape: tuple[int, ...], type: GGMLType) -> Bytes:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    if len(shape) > 1:
        columns = shape[-1]
        rows = math.prod(shape[:-1])
        return random_rows(type, rows, columns, spread=1 / math.sqrt(columns), seed=seed)
    middle = 1.0 if name.endswith("norm.weight") else 0.0
    values = np.random.default_rng(seed).uniform(middle - 0.1, middle + 0.1, shape)
    return quantize(values.astype(np.float32), type)
