"""What computing a token with a model takes, counted from its tensors."""

from __future__ import annotations

from enginebench.types import ModelShape
from enginebench_models.config import ModelConfig
from enginebench_models.weights import Weights

__all__ = ["model_shape"]

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_OF_EXPERTS = "_exps.weight"


def model_shape(config: ModelConfig, weights: Weights) -> ModelShape:
    """Every matrix is multiplied once for a token, of experts' the chosen ones; the embedding only
    where it is the head too.
    """
    values = size_bytes = 0.0
    for name in weights:
        tensor = weights[name]
        if len(tensor.shape) < 2 or (name == _EMBEDDING and _HEAD in weights):
            continue
        share = 1.0
        if name.endswith(_OF_EXPERTS) and config.experts is not None:
            share = config.experts.used / config.experts.count
        values += share * tensor.size
        size_bytes += share * tensor.size_bytes
    return ModelShape(
        token_weights=round(values),
        token_bytes=round(size_bytes),
        head_weights=config.vocab_size * config.hidden_size,
        kv_values=_kv_values(config),
        attention_values=config.n_layers * config.n_heads * config.head_dim,
    )


def _kv_values(config: ModelConfig) -> int:
    """0 where windows narrow the attention: how much is read then depends on the position."""
    if config.sliding_window is not None:
        return 0
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim
