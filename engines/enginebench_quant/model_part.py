"""A run of a model's layers as a model of its own, for a device that computes only these.

The first part ends in the residual stream, the last one begins with it; only a part that begins the
model needs its embeddings, only one that ends it has norm and head.
"""

from __future__ import annotations

from dataclasses import replace

from enginebench_models import Model, ModelConfig, Tensor
from enginebench_models.weights import Weights

__all__ = ["first_layers", "last_layers"]

EMBEDDING = "token_embd.weight"


def first_layers(model: Model, count: int) -> Model:
    """Layers 0 to `count` - 1, without a head."""
    config = replace(_config_of(model.config, range(count)), tie_word_embeddings=False)
    tensors = [*_tensors_of(model, range(count)), model.weights[EMBEDDING]]
    return replace(model, config=config, weights=Weights(tensors))


def last_layers(model: Model, count: int) -> Model:
    """The last `count` layers, numbered from 0, and the head."""
    layers = range(model.config.n_layers - count, model.config.n_layers)
    head = EMBEDDING if model.config.tie_word_embeddings else "output.weight"
    ends = [model.weights[name] for name in ("output_norm.weight", head)]
    tensors = [*_tensors_of(model, layers), *ends]
    return replace(model, config=_config_of(model.config, layers), weights=Weights(tensors))


def _config_of(config: ModelConfig, layers: range) -> ModelConfig:
    marks = config.sliding_layers
    own = None if marks is None else marks[layers.start : layers.stop]
    return replace(config, n_layers=len(layers), sliding_layers=own)


def _tensors_of(model: Model, layers: range) -> list[Tensor]:
    """Those of some layers, under the names that they have when counted from the first of these."""
    found = []
    for name, tensor in model.weights.items():
        kind, _, rest = name.partition(".")
        number, _, part = rest.partition(".")
        if kind == "blk" and int(number) in layers:
            found.append(replace(tensor, name=f"blk.{int(number) - layers.start}.{part}"))
    return found
