"""What a model is, once for all engines: config, weights, tokenizer, chat template.

    model = open_model("smollm2-135m")
    ids = model.tokenizer.encode("Once upon a time")
    embedding = model.weights["token_embd.weight"].dequantize()

Knows files and formats; computes nothing, and imports neither torch nor numba. Names load on
first use, because this package's plugin is imported whenever `bench` starts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginebench_models.chat_template import ChatTemplate, ChatTemplateError
    from enginebench_models.config import Experts, LayerAttention, ModelConfig, RopeScaling
    from enginebench_models.dequantizers import dequantize
    from enginebench_models.ggml_types import GGMLType
    from enginebench_models.model import Model
    from enginebench_models.open import open_model
    from enginebench_models.quantizers import quantize
    from enginebench_models.tensor_shapes import expected_shapes
    from enginebench_models.token_stream import TokenStream
    from enginebench_models.tokenizer import Tokenizer
    from enginebench_models.weights import Tensor, Weights

__all__ = [
    "ChatTemplate",
    "ChatTemplateError",
    "Experts",
    "GGMLType",
    "LayerAttention",
    "Model",
    "ModelConfig",
    "RopeScaling",
    "Tensor",
    "TokenStream",
    "Tokenizer",
    "Weights",
    "dequantize",
    "expected_shapes",
    "open_model",
    "quantize",
]

_HOMES = {
    "ChatTemplate": "chat_template",
    "ChatTemplateError": "chat_template",
    "Experts": "config",
    "GGMLType": "ggml_types",
    "LayerAttention": "config",
    "Model": "model",
    "ModelConfig": "config",
    "RopeScaling": "config",
    "Tensor": "weights",
    "TokenStream": "token_stream",
    "Tokenizer": "tokenizer",
    "Weights": "weights",
    "dequantize": "dequantizers",
    "expected_shapes": "tensor_shapes",
    "open_model": "open",
    "quantize": "quantizers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
